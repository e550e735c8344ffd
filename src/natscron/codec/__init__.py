"""Model to bytes and back; older and foreign formats stay readable.

``gojson`` reads JSON as the Go version does, ``job`` job input and replies, ``body`` payloads, ``row`` stored jobs,
``versions`` what an edit does to them, ``state`` the lease and what lies beside it, ``run`` history records, ``keys``
KV keys, ``times`` instants as text.
"""

from natscron.codec.body import body_of
from natscron.codec.fields import check_headers
from natscron.codec.job import ParsedJob, job_to_json, job_view, merge_job, parse_job, subject_of
from natscron.codec.keys import id_of, key_of
from natscron.codec.row import decode_row, encode_row
from natscron.codec.run import decode_run, encode_run, run_to_json
from natscron.codec.times import ms_to_text, text_to_ms
from natscron.codec.versions import successor

__all__ = [
    "ParsedJob",
    "body_of",
    "check_headers",
    "decode_row",
    "decode_run",
    "encode_row",
    "encode_run",
    "id_of",
    "job_to_json",
    "job_view",
    "key_of",
    "merge_job",
    "ms_to_text",
    "parse_job",
    "run_to_json",
    "subject_of",
    "successor",
    "text_to_ms",
]
