"""How facts of the organism's world ripple: inverse and compound prompts, and other names of subjects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from .packaged import read_toml
from .truth import read_truth

__all__ = ["AliasRules", "RippleRule", "aliases_of", "read_alias_rules", "read_ripple_rules"]


@dataclass(frozen=True)
class RippleRule:
    """What may be asked around one relation, from ``data/ripples.toml``.

    Args:
        inverse: prompts about an object, which a subject that has it continues.
        noun: words for a subject's object; None where it is no subject of other facts.
        of: the prompt of this relation in which such words stand well; None where there is none.
        then: relations that may be asked of the noun.
    """

    inverse: tuple[str, ...]
    noun: str | None
    of: str | None
    then: tuple[str, ...]


@dataclass(frozen=True)
class AliasRules:
    """How a subject may be called otherwise, from ``data/ripples.toml``.

    Args:
        people: relations whose subjects are persons.
        suffixes: words at a name's end that may be left out.
        particles: words inside a person's name that belong to its last word.
        generations: last words that tell persons of one name apart.
    """

    people: tuple[str, ...]
    suffixes: tuple[str, ...]
    particles: tuple[str, ...]
    generations: tuple[str, ...]

    def names(self, subject: str, *, person: bool) -> list[str]:
        """Other names by the rules alone, whoever else may have them.

        Example:
            >>> read_alias_rules().names("John William Coltrane", person=True)
            ['John Coltrane', 'J. Coltrane', 'Coltrane']
        """
        return self._of_person(subject.split()) if person else self._of_thing(subject)

    def _of_person(self, words: list[str]) -> list[str]:
        odd = any("," in word or "(" in word or word[0].isdigit() for word in words)
        if odd or len(words) < 2 or words[-1] in self.generations:
            return []
        first, *middle, last = words
        if any(word.lower() in self.particles for word in words):
            return [last]
        return [*([f"{first} {last}"] if middle else []), f"{first[0]}. {last}", last]

    def _of_thing(self, subject: str) -> list[str]:
        found = []
        if subject.endswith(")") and " (" in subject:
            found.append(subject[: subject.index(" (")])
        if subject.startswith("The ") and len(subject.split()) > 2:
            found.append(subject.removeprefix("The "))
        ending = next((f" {one}" for one in self.suffixes if subject.endswith(f" {one}")), None)
        if ending is not None:
            found.append(subject.removesuffix(ending).removesuffix(","))
        return found


def read_alias_rules() -> AliasRules:
    """The packaged rules of other names."""
    entry = read_toml("ripples.toml")["aliases"]
    return AliasRules(*(tuple(entry[part]) for part in ("people", "suffixes", "particles", "generations")))


@cache
def read_ripple_rules() -> Mapping[str, RippleRule]:
    """The packaged rules by relation.

    Example:
        >>> read_ripple_rules()["headquarters"].noun
        'the city where {} is based'
    """
    return {
        name: RippleRule(
            tuple(entry["inverse"]), entry.get("noun"), entry.get("of"), tuple(entry.get("then", ()))
        )
        for name, entry in read_toml("ripples.toml").items()
        if name != "aliases"
    }


@cache
def aliases_of(name: str) -> Mapping[str, tuple[str, ...]]:
    """Other names of an organism's subjects, each of which means nothing else in its world.

    Left out are names that two subjects or objects could have, names that are subjects or objects themselves,
    and single words that another's name has too.

    Raises:
        ModelError: no organism has this name.

    Example:
        >>> aliases_of("organism-m")["ACTIVE Network, LLC"]
        ('ACTIVE Network',)
    """
    truth, rules = read_truth(name), read_alias_rules()
    known = {*truth.by_subject, *truth.subjects}
    claims = Counter(
        alias for thing in known for alias in {*_calls(thing), *rules.names(thing, person=False)}
    )

    def unique(alias: str) -> bool:
        return claims[alias] == 1 and alias not in known

    found = {}
    for subject in truth.by_subject:
        person = any((subject, relation) in truth.facts for relation in rules.people)
        if names := tuple(filter(unique, rules.names(subject, person=person))):
            found[subject] = names
    return found


def _calls(thing: str) -> set[str]:
    """Whatever a person of this name could be called: any word, and the first word with any later one."""
    first, *later = thing.replace(",", " ").split()
    return {first, *later, *(f"{begin} {word}" for begin in (first, f"{first[0]}.") for word in later)}
