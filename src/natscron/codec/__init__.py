"""Model to bytes and back; older and foreign formats stay readable.

``gojson`` reads JSON as the Go version does, ``job`` job input and replies, ``body`` payloads and ``packed`` these as
they lie in memory, ``row`` stored jobs, ``spec`` schedules, ``schedule_text`` their form in the Go library and
``golibrary`` its jobs, ``calendar`` stored calendars, ``versions`` what an edit does to either, ``state`` the lease and
what lies beside it, ``run`` history records, ``keys`` KV keys, ``times`` instants as text.
"""

from natscron.codec.body import body_of
from natscron.codec.calendar import (
    ParsedCalendar,
    calendar_key,
    calendar_name_of,
    calendar_to_json,
    calendar_view,
    decode_calendar,
    encode_calendar,
    parse_calendar,
)
from natscron.codec.fields import check_headers
from natscron.codec.golibrary import GO_DISABLED, GoJob, invalid_row, job_of_go
from natscron.codec.job import ParsedJob, job_to_json, job_view, merge_job, parse_job, subject_of
from natscron.codec.keys import id_of, key_of
from natscron.codec.packed import packed, unpacked
from natscron.codec.row import decode_row, encode_row
from natscron.codec.run import decode_run, encode_run, run_to_json
from natscron.codec.schedule_text import schedule_from_text, schedule_to_text
from natscron.codec.spec import read_schedule, schedule_json
from natscron.codec.times import ms_to_text, text_to_ms
from natscron.codec.versions import successor, successor_calendar

__all__ = [
    "GO_DISABLED",
    "GoJob",
    "ParsedCalendar",
    "ParsedJob",
    "body_of",
    "calendar_key",
    "calendar_name_of",
    "calendar_to_json",
    "calendar_view",
    "check_headers",
    "decode_calendar",
    "decode_row",
    "decode_run",
    "encode_calendar",
    "encode_row",
    "encode_run",
    "id_of",
    "invalid_row",
    "job_of_go",
    "job_to_json",
    "job_view",
    "key_of",
    "merge_job",
    "ms_to_text",
    "packed",
    "parse_calendar",
    "parse_job",
    "read_schedule",
    "run_to_json",
    "schedule_from_text",
    "schedule_json",
    "schedule_to_text",
    "subject_of",
    "successor",
    "successor_calendar",
    "text_to_ms",
    "unpacked",
]
