"""What stands below a figure: networks, layers, budget and steps, how many images, and the verdicts on its claims."""

from pathlib import Path

from lib import settings
from lib.reading import read_yaml
from lib.report import claims
from lib.report.figures import FIGURES
from lib.report.results import Results

FILE = Path(__file__).with_suffix(".yaml")
# Of a figure that illustrates a table, the table whose claims it shows.
ILLUSTRATED = {"figure_04": "Table 6", "figure_05": "Table 7", "protocol": "Table 1"}


def caption(results: Results, name: str) -> str:
    """The caption of a figure, without verdicts; FileNotFoundError where the scale or the figure's data are gone."""
    scale = settings.load(results.scale)
    # Per appendix (t: the t-SNE), the networks whose features SSP drives.
    driven = {"a": scale.a.sources.values(), "t": [scale.a.features], "e": [scale.e.surrogate]}
    driven |= {"f": [scale.f.feature_surrogate], "g": [scale.g.robust]}
    listed = {
        "ensemble": ", ".join(scale.g.ensemble),
        "pictured": " and ".join(scale.d.pictured),
        "generator": next(iter(scale.d.generators)),
        "longest": str(max(scale.a.iterations)),
    }
    text = read_yaml(FILE)[name].format(
        scale=scale,
        attacks=settings.params_at(scale).attacks,
        layers={part: ", ".join(f"{one} {scale.networks[one].tap}" for one in names) for part, names in driven.items()},
        listed=listed,
    )
    counted = FIGURES[name].data == "data" and name != "claims"
    images = sorted(set(results.load_data(name).get("n", ()))) if counted else []
    return f"{text} n = {', '.join(map(str, images))}." if images else text


def verdicts_shown(results: Results, name: str) -> str:
    """The verdicts on the claims that a figure shows, such as "A1 reproduced"; "" where none was judged."""
    if not results.files("tables/claims.csv"):
        return ""
    judged = results.load_table("claims")
    shown = judged[judged["item"].isin([FIGURES[name].item, ILLUSTRATED.get(name)]) & (judged["reading"] == "")]
    return ", ".join(f"{claim} {verdict}" for claim, verdict in claims.verdicts(shown).items())
