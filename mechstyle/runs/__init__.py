"""The only forward loops of the library: whole runs, recorded runs, and runs resumed from a recorded one."""

from mechstyle.runs.blockwise import entering, through
from mechstyle.runs.decoding import decode
from mechstyle.runs.full import Hook, capture, logits
from mechstyle.runs.memory import default_memory, rows_within
from mechstyle.runs.recording import Recording, record, record_again, rerun_blocks
from mechstyle.runs.resuming import resume

__all__ = [
    "Hook",
    "Recording",
    "capture",
    "decode",
    "default_memory",
    "entering",
    "logits",
    "record",
    "record_again",
    "rerun_blocks",
    "resume",
    "rows_within",
    "through",
]
