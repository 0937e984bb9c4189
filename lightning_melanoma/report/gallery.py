"""The section of the page that shows the most confident mistakes, with their pictures if given."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

from lightning_melanoma.callbacks.style import percent
from lightning_melanoma.report.mistakes import Mistake, Mistakes


def mistakes_section(mistakes: Mistakes, pictures: Mapping[str, bytes], *, table_name: str) -> str:
    """Return the section of one table as HTML.

    Args:
        mistakes: of the table.
        pictures: JPEG of each image by its id; empty for ids alone.
        table_name: of the table among several; empty for none.
    """
    of_table = f", {escape(table_name)}" if table_name else ""
    return (
        f'<section class="mistakes"><h2>The most confident mistakes{of_table}</h2>'
        + _side("Missed melanomas", "least probable", mistakes.missed, pictures)
        + _side("False alarms", "most probable", mistakes.false_alarms, pictures)
        + "</section>"
    )


def _side(
    title: str, order: str, mistakes: Sequence[Mistake], pictures: Mapping[str, bytes]
) -> str:
    if not mistakes:
        return f"<h3>{title}: none</h3>"
    cards = "\n".join(_card(mistake, pictures.get(mistake.image_name)) for mistake in mistakes)
    kind = "pictures" if pictures else "ids"
    return f'<h3>{title}, the {order} first</h3><div class="{kind}">\n{cards}\n</div>'


def _card(mistake: Mistake, picture: bytes | None) -> str:
    chance, name = percent(mistake.probability), escape(mistake.image_name)
    details = f" <small>{escape(mistake.details)}</small>" if mistake.details else ""
    image = ""
    if picture is not None:
        data = base64.b64encode(picture).decode()
        image = f'<img alt="{name}" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{image}<figcaption><b>{chance}</b> {name}{details}</figcaption></figure>"
