"""Find melanoma in dermoscopy images: TFRecords in, a probability for each image out.

Importing the package imports neither torch nor pytorch_lightning, so that the commands that are
functions of files (``synthesize``, ``convert``) start at once. `score` is there from Python, too:
torch is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_melanoma.scoring.command import score

__all__ = ["__version__", "score"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is asked for
    if name != "score":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_melanoma.scoring.command import score

    return score
