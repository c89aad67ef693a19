"""The Hugging Face hub: an export uploaded to a repository of the user's."""

import re
from pathlib import Path
from typing import Any

from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.export.card import CARD
from perceptual_mae.export.libraries import quietly

_REASONS = {
    400: "the hub refuses what is uploaded",
    401: "the token is not valid: make one that may write at https://huggingface.co/settings/tokens",
    403: "the token may not write there: make one that may at https://huggingface.co/settings/tokens",
    404: "there is no such user or repository, or the token may not see it",
    409: "a repository of this name is there already and is of another kind",
    429: "too many requests: wait a while, and repeat the command",
}
"""By status of HTTP."""


def check_repository(repository: str | None) -> str:
    """`USER/NAME`.

    Raises:
        UsageError: it is missing, or no repository can be called so.
    """
    if not repository:
        raise UsageError("--repo is missing: where to upload to, USER/NAME")
    part = r"[A-Za-z0-9](?:[\w.-]*\w)?"
    if len(repository) > 96 or not re.fullmatch(f"{part}/{part}", repository) or re.search(r"--|\.\.", repository):
        raise UsageError(f"--repo {repository[:100]}: give USER/NAME, of letters, digits, '-', '_' and '.'")
    return repository


def open_hub() -> Any:
    """A client of the hub with the user's token; `HF_ENDPOINT` says where the hub is.

    Raises:
        PmaeError: there is no token, or the hub may not be asked.
    """
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise PmaeError("--to hub: HF_HUB_OFFLINE is set, and nothing can be uploaded: unset it")
    token = get_token()
    if not token:
        raise PmaeError(
            "--to hub: there is no token: run `hf auth login`, or set HF_TOKEN to one that may write "
            "(https://huggingface.co/settings/tokens)"
        )
    return HfApi(token=token, library_name="perceptual-mae")


def upload(api: Any, repository: str, folder: Path, private: bool) -> tuple[str, bool]:
    """Make the repository where there is none, and upload a folder as one commit.

    A card that is there already stays as it is: somebody may have written in it.

    Returns:
        the address of the repository, and whether the card was uploaded.

    Raises:
        PmaeError: the hub cannot be reached, or refuses; one line.
    """
    try:
        with quietly():
            # None, and not False: an organisation may be used to private ones.
            address = api.create_repo(repository, private=private or None, exist_ok=True)
            has_card = api.file_exists(repository, CARD)
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message="Upload an encoder with perceptual-mae",
                ignore_patterns=[CARD] if has_card else None,
            )
    except Exception as error:  # of the client, of the HTTP library below it, of the system
        raise PmaeError(f"--repo {repository}: {reason(error, api.endpoint)}") from error
    return str(address), not has_card


def reason(error: Exception, endpoint: str) -> str:
    """Why an upload failed, in a line."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status is not None:
        said = " ".join(str(getattr(error, "server_message", None) or "").split())[:200]
        known = _REASONS.get(status, "the hub cannot do it" if status >= 500 else "the hub refuses it")
        return f"{known} (HTTP {status}{': ' + said if said else ''})"
    line = (str(error).splitlines() or [""])[0][:150]
    return f"{endpoint} cannot be reached or does not answer as a hub does ({type(error).__name__}: {line})"
