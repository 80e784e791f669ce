"""Why a record was refused: one list for the whole pipeline. A refused record is kept with its code and counted, never dropped. Light."""

from __future__ import annotations

from enum import StrEnum


class ReasonCode(StrEnum):
    """Written into every rejected row. A code once published keeps its meaning."""

    # the source
    MISSING_FILE = "missing_file"  # metadata names it, the folder does not hold it
    UNREADABLE = "unreadable"  # the operating system refuses to read it
    FILE_TOO_LARGE = "file_too_large"
    SOURCE_CHANGED = "source_changed"  # other bytes than those that were scanned
    DUPLICATE_KEY = "duplicate_key"
    LINK_OUTSIDE = "link_outside"  # a symbolic link that leads out of the source folder
    NAME_REFUSED = "name_refused"  # not UTF-8, absolute, with `..`, control characters, or too long
    # members of foreign tars
    TAR_DAMAGED = "tar_damaged"  # the rest of the archive cannot be read
    TAR_LINK = "tar_link"
    TAR_SPECIAL = "tar_special"  # device, fifo, sparse or a type of unknown meaning
    TAR_HEADER_TOO_LARGE = "tar_header_too_large"
    NO_PICTURE = "no_picture"  # a sample with captions only
    SEVERAL_PICTURES = "several_pictures"
    # the picture
    EMPTY_FILE = "empty_file"
    NOT_A_PICTURE = "not_a_picture"  # none of the accepted formats, by content
    HEADER_DAMAGED = "header_damaged"
    PICTURE_DAMAGED = "picture_damaged"  # cut off, wrong checksum: not decodable whole
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    TOO_LONG = "too_long"  # aspect ratio beyond the limit
    # what curation decides
    DUPLICATE = "duplicate"  # another record that is kept shows the same
    NOT_SELECTED = "not_selected"  # a `select` stage's expression does not hold
    NOT_SCORED = "not_scored"  # the scorer refuses the picture, or its prompt is missing
    NO_CAPTION = "no_caption"  # no captioner could describe it, and the recipe refuses such records
    NO_DOMAIN = "no_domain"  # it belongs to none that a top-down set is made of
    LOW_SCORE = "low_score"  # its domain has enough better ones
    NOT_COHERENT = "not_coherent"  # far from what its domain is about
    NOT_DIVERSE = "not_diverse"  # its domain has enough of that already
    DOMAIN_FULL = "domain_full"  # its domain has as many as were asked for
    # the process that worked on it
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"  # SIGKILL from outside at the same record, again and again: usually the kernel's memory killer
