"""Makes the secrets that docker-compose.yml mounts, once: ``python3 deploy/make_secrets.py``.

Every one is random, lies in a file of its own under ``secrets/`` (which git and the image's build
ignore), and what is there already is kept. The folder is closed to others; the files in it are
readable because a container sees them with the ids that they have here.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "secrets"
CLIENT = "first-client"


def make(folder: Path) -> list[str]:
    """Write what is missing. Returns the names of what was written."""
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    written: list[str] = []

    def keep(name: str, content: str) -> str:
        path = folder / name
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(content)
            path.chmod(0o644)
            written.append(name)
        return path.read_text().strip()

    postgres = keep("postgres_password", secrets.token_hex(24))
    redis = keep("redis_password", secrets.token_hex(24))
    keep("grafana_password", secrets.token_hex(12))
    orthanc = keep("orthanc_password", secrets.token_hex(12))
    keep("redis.conf", f"requirepass {redis}\n")
    keep("orthanc.json", f'{{"RegisteredUsers": {{"lazaret": "{orthanc}"}}}}\n')
    keep(
        "lazaret.toml",
        "# what the service must not be told in its environment; other settings may follow\n"
        f'database = "postgresql+psycopg://lazaret:{postgres}@postgres/lazaret"\n'
        f'redis = "redis://:{redis}@redis:6379/0"\n',
    )
    keep("query_secret", secrets.token_hex(32))
    key = keep("api_key", secrets.token_hex(32))
    keep("api_keys", f"{CLIENT}:{hashlib.sha256(key.encode()).hexdigest()}\n")
    return written


if __name__ == "__main__":
    made = make(FOLDER)
    sys.stdout.write(
        f"{FOLDER}: {'made ' + ', '.join(made) if made else 'all there'}\n"
        "Grafana: user admin, password in secrets/grafana_password. API: key in secrets/api_key.\n"
    )
