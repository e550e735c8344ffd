"""When to try again. Pure; the spread is hashed, so that it comes out the same when it must be repeated."""

import hashlib

from natscron.model import Ms, Retry


def applies(policy: Retry, reason: str | None, code: str | None = None) -> bool:
    """Whether an error is one that the policy tries again: by its reason, or by the worker's own code.

    ``never`` wins over ``only``; an empty ``only`` means every error.
    """
    names = [name for name in (reason, code) if name]
    if any(_matches(word, names) for word in policy.never):
        return False
    return not policy.only or any(_matches(word, names) for word in policy.only)


def _matches(word: str, names: list[str]) -> bool:
    if word.endswith("*"):
        return any(name.startswith(word[:-1]) for name in names)
    return word in names


def delay_ms(policy: Retry, attempt: int, key: str) -> Ms:
    """Milliseconds to wait after the failed try ``attempt`` (1 = the first).

    backoff x factor^(attempt-1), at most ``max_backoff_ms``, then moved by up to +-jitter, spread by a hash of
    (key, attempt). Never negative, never above the cap.
    """
    # The exponent is bounded so that no attempt count overflows a float; the cap is long reached by then.
    base = min(policy.backoff_ms * policy.factor ** min(attempt - 1, 64), policy.max_backoff_ms)
    digest = hashlib.blake2b(f"{key}:{attempt}".encode(), digest_size=8).digest()
    spread = int.from_bytes(digest, "big") / (1 << 64) * 2 - 1
    return max(0, min(round(base * (1 + policy.jitter * spread)), policy.max_backoff_ms))


def next_attempt_ms(policy: Retry, attempt: int, failed_at_ms: Ms, key: str) -> Ms | None:
    """When to start the try after ``attempt``; None: that was the last one."""
    if attempt >= policy.attempts:
        return None
    return failed_at_ms + delay_ms(policy, attempt, key)
