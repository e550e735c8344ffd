"""An authority and certificates of a test's own, by the ``openssl`` program; the keys never leave its folder."""

import subprocess
from pathlib import Path

_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


def _openssl(words: str) -> None:
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)  # noqa: S603, S607 - our own words


def authority(folder: Path, name: str) -> Path:
    """A new authority: the certificate to trust. Its key lies beside it."""
    cert = folder / f"{name}.pem"
    _openssl(f"req -x509 {_KEY} -days 2 -subj /CN={name} -keyout {cert.with_suffix('.key')} -out {cert}")
    return cert


def server_tls(folder: Path, trusted: Path) -> str:
    """The ``tls`` block of a NATS server on 127.0.0.1 whose certificate ``trusted`` has signed."""
    cert, key, asked = folder / "server.pem", folder / "server.key", folder / "server.csr"
    _openssl(f"req {_KEY} -subj /CN=server -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {asked}")
    signed = f"-CA {trusted} -CAkey {trusted.with_suffix('.key')} -CAcreateserial -copy_extensions copy"
    _openssl(f"x509 -req -in {asked} {signed} -days 2 -out {cert}")
    return f'tls {{ cert_file: "{cert}", key_file: "{key}" }}'
