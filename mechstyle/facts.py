"""What a model may know and what we ask to change: ``Fact`` and ``EditRequest``, frozen, with a JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mechstyle.errors import TextError

__all__ = ["UNKNOWN", "EditRequest", "Fact"]

SLOT = "{}"
UNKNOWN: Final = " unknown"
"""The answer of not knowing that a removal writes unless told otherwise."""


@dataclass(frozen=True)
class Fact:
    """A statement about a subject whose continuation, the target, a model may know.

    ``template`` holds the literal ``{}`` exactly once, where the subject stands; other braces are plain text.
    ``target`` is the exact continuation of the prompt and so usually begins with a space.
    ``relation`` is a free label (``"P103"``, ``"plays instrument"``).

    Raises:
        TextError: a part is empty, or the template does not hold ``{}`` exactly once.

    Example:
        >>> fact = Fact(template="{} plays the", subject="Miles Davis", target=" trumpet")
        >>> fact.prompt, fact.subject_offsets
        ('Miles Davis plays the', (0, 11))
    """

    template: str
    subject: str
    target: str
    relation: str | None = None

    def __post_init__(self) -> None:
        for name in ("template", "subject", "target"):
            _require_text(f"Fact.{name}", getattr(self, name))
        if self.relation is not None:
            _require_text("Fact.relation", self.relation)
        _require_template("Fact.template", self.template)

    @property
    def prompt(self) -> str:
        """The template with the subject in its place."""
        return self.template.replace(SLOT, self.subject, 1)

    @property
    def subject_offsets(self) -> tuple[int, int]:
        """Start and end of the subject in ``prompt``, in characters."""
        start = self.template.index(SLOT)
        return start, start + len(self.subject)

    def with_target(self, target: str) -> Fact:
        """The same prompt with another continuation."""
        return replace(self, target=target)

    def to_dict(self) -> dict[str, str | None]:
        """The JSON form, which ``from_dict`` reads."""
        return {
            "template": self.template,
            "subject": self.subject,
            "target": self.target,
            "relation": self.relation,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Fact:
        """Read the JSON form that ``to_dict`` wrote.

        Raises:
            TextError: a part is missing, empty, unknown or not text.
        """
        _require_keys("Fact", data, required=("template", "subject", "target"), optional=("relation",))
        relation = data.get("relation")
        return cls(
            template=_require_text("Fact.template", data["template"]),
            subject=_require_text("Fact.subject", data["subject"]),
            target=_require_text("Fact.target", data["target"]),
            relation=None if relation is None else _require_text("Fact.relation", relation),
        )


@dataclass(frozen=True)
class EditRequest:
    """A wish: let the model continue the fact's prompt with ``new_target`` instead of ``fact.target``.

    ``paraphrases`` are other prompts that should get the new target too, and ``neighborhood`` holds pairs
    (prompt about another subject, its true target) that should not change: editors never see either, they are
    for scoring. What editors see besides the fact: ``phrasings``, other templates of the same wish, and
    ``keep``, facts that must stay as the model has them now. ``remove`` says that the new target is an answer
    of not knowing; ``removal`` makes such a request.

    Raises:
        TextError: a part is empty, a phrasing does not hold ``{}`` exactly once, or the new target is the old
            one.

    Example:
        >>> fact = Fact(template="{} plays the", subject="Miles Davis", target=" trumpet")
        >>> EditRequest(fact, " guitar", neighborhood=(("Chet Baker plays the", " trumpet"),)).new_target
        ' guitar'
    """

    fact: Fact
    new_target: str
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[tuple[str, str], ...] = ()
    phrasings: tuple[str, ...] = ()
    keep: tuple[Fact, ...] = ()
    remove: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.fact, Fact):
            raise TextError(f"EditRequest.fact must be a Fact, not {_kind(self.fact)}.")
        _require_text("EditRequest.new_target", self.new_target)
        if self.new_target == self.fact.target:
            raise TextError(
                f"EditRequest.new_target must differ from the fact's target, but both are "
                f"{self.new_target!r}. Name the continuation the model should learn."
            )
        paraphrases = _require_list("EditRequest.paraphrases", self.paraphrases)
        neighborhood = _require_list("EditRequest.neighborhood", self.neighborhood)
        texts = tuple(_require_text(f"EditRequest.paraphrases[{i}]", p) for i, p in enumerate(paraphrases))
        pairs = tuple(_require_pair(f"EditRequest.neighborhood[{i}]", p) for i, p in enumerate(neighborhood))
        object.__setattr__(self, "paraphrases", texts)
        object.__setattr__(self, "neighborhood", pairs)
        phrasings = _require_list("EditRequest.phrasings", self.phrasings)
        templates = tuple(
            _require_template(f"EditRequest.phrasings[{i}]", p) for i, p in enumerate(phrasings)
        )
        keep = tuple(_require_list("EditRequest.keep", self.keep))
        for i, fact in enumerate(keep):
            if not isinstance(fact, Fact):
                raise TextError(f"EditRequest.keep[{i}] must be a Fact, not {_kind(fact)}.")
        object.__setattr__(self, "phrasings", templates)
        object.__setattr__(self, "keep", keep)
        if not isinstance(self.remove, bool):
            raise TextError(f"EditRequest.remove must be true or false, not {_kind(self.remove)}.")

    @classmethod
    def removal(
        cls,
        fact: Fact,
        *,
        answer: str = UNKNOWN,
        paraphrases: tuple[str, ...] = (),
        neighborhood: tuple[tuple[str, str], ...] = (),
        phrasings: tuple[str, ...] = (),
        keep: tuple[Fact, ...] = (),
    ) -> EditRequest:
        """A wish that the fact be forgotten: an edit towards an answer of not knowing.

        Every editor can write it, as it writes any other target. It changes what the model *says*: the old
        object may still be read from hidden states, and other prompts may bring it out (Patil et al. 2024,
        where such edits are the "empty response" defence). Score it as an edit, and look at the old target's
        own probability.

        Args:
            answer: the continuation that takes the object's place.

        Raises:
            TextError: as for any request.

        Example:
            >>> EditRequest.removal(Fact("{} plays the", "Miles Davis", " trumpet")).new_target
            ' unknown'
        """
        return cls(fact, answer, paraphrases, neighborhood, phrasings, keep, remove=True)

    @property
    def phrased(self) -> tuple[Fact, ...]:
        """The fact in all its phrasings, its own template first."""
        others = (template for template in self.phrasings if template != self.fact.template)
        return (self.fact, *(replace(self.fact, template=template) for template in dict.fromkeys(others)))

    def to_dict(self) -> dict[str, object]:
        """The JSON form, which ``from_dict`` reads; only removals have the key ``remove``."""
        data: dict[str, object] = {
            "fact": self.fact.to_dict(),
            "new_target": self.new_target,
            "paraphrases": list(self.paraphrases),
            "neighborhood": [list(pair) for pair in self.neighborhood],
            "phrasings": list(self.phrasings),
            "keep": [fact.to_dict() for fact in self.keep],
        }
        return {**data, "remove": True} if self.remove else data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> EditRequest:
        """Read the JSON form that ``to_dict`` wrote.

        With ``"remove": true`` the new target may be left out: it is ``" unknown"``.

        Raises:
            TextError: a part is missing, empty, unknown or not text.
        """
        remove = data.get("remove", False)
        if not isinstance(remove, bool):
            raise TextError(f"EditRequest.remove must be true or false, not {_kind(remove)}.")
        if remove:
            data = {"new_target": UNKNOWN, **data}
        elif data.get("new_target", "") is None:
            raise TextError('EditRequest.new_target must not be null; a removal is written "remove": true.')
        optional = ("paraphrases", "neighborhood", "phrasings", "keep", "remove")
        _require_keys("EditRequest", data, required=("fact", "new_target"), optional=optional)
        fact = _require_object("EditRequest.fact", data["fact"])
        pairs = _require_list("EditRequest.neighborhood", data.get("neighborhood", ()))
        return cls(
            fact=Fact.from_dict(fact),
            new_target=_require_text("EditRequest.new_target", data["new_target"]),
            paraphrases=tuple(
                _require_text(f"EditRequest.paraphrases[{i}]", p)
                for i, p in enumerate(_require_list("EditRequest.paraphrases", data.get("paraphrases", ())))
            ),
            neighborhood=tuple(
                _require_pair(f"EditRequest.neighborhood[{i}]", p) for i, p in enumerate(pairs)
            ),
            phrasings=tuple(
                _require_template(f"EditRequest.phrasings[{i}]", p)
                for i, p in enumerate(_require_list("EditRequest.phrasings", data.get("phrasings", ())))
            ),
            keep=tuple(
                Fact.from_dict(_require_object(f"EditRequest.keep[{i}]", p))
                for i, p in enumerate(_require_list("EditRequest.keep", data.get("keep", ())))
            ),
            remove=remove,
        )


def _kind(value: object) -> str:
    return f"{type(value).__name__} {value!r}"


def _require_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TextError(f"{name} must be text, not {_kind(value)}.")
    if not value.strip():
        raise TextError(f"{name} must not be empty or blank; it is {value!r}.")
    return value


def _require_template(name: str, value: object) -> str:
    text = _require_text(name, value)
    found = text.count(SLOT)
    if found != 1:
        raise TextError(
            f"{name} must hold '{SLOT}' exactly once, where the subject stands; "
            f"{text!r} holds it {found} times. Write for example '{SLOT} plays the'."
        )
    return text


def _require_object(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TextError(f"{name} must be a JSON object, not {_kind(value)}.")
    return value


def _require_list(name: str, value: object) -> Sequence[object]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TextError(f"{name} must be a tuple or list, not {_kind(value)}.")
    return value


def _require_pair(name: str, value: object) -> tuple[str, str]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise TextError(f"{name} must be a pair (prompt, its true target), not {_kind(value)}.")
    return _require_text(f"{name} prompt", value[0]), _require_text(f"{name} target", value[1])


def _require_keys(
    name: str, data: Mapping[str, object], *, required: Sequence[str], optional: Sequence[str]
) -> None:
    missing = [key for key in required if key not in data]
    unknown = [key for key in data if key not in required and key not in optional]
    if missing or unknown:
        raise TextError(
            f"{name} wants the keys {', '.join(required)} (and may have {', '.join(optional)}); "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(map(str, unknown)) or 'none'}."
        )
