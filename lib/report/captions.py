"""What stands below a figure: networks, layers, budget and steps, how many images, and the verdicts on its claims."""

from pathlib import Path

from lib import settings
from lib.reading import read_yaml
from lib.report import claims
from lib.report.figures import FIGURES
from lib.report.results import Results
from lib.settings import Scale

FILE = Path(__file__).with_suffix(".yaml")
# Of a figure that illustrates a table, the table whose claims it shows.
TABLES = {"figure_04": "Table 6", "figure_05": "Table 7", "protocol": "Table 1"}


def caption(results: Results, name: str) -> str:
    """The caption of a figure, without verdicts; FileNotFoundError where the scale or the figure's data are gone."""
    scale = settings.load(results.scale)
    known = {"scale": scale, "attacks": settings.params_at(scale).attacks}
    text = read_yaml(FILE)[name].format(**known, layers=_layers(scale), listed=_listed(scale))
    counted = FIGURES[name].data == "data" and name != "claims"
    images = sorted(set(results.load_data(name).get("n", ()))) if counted else []
    return f"{text} n = {', '.join(map(str, images))}." if images else text


def verdicts(results: Results, name: str) -> str:
    """The verdicts on the claims that a figure shows, such as "A1 reproduced"; "" where none was judged."""
    if not results.files("tables/claims.csv"):
        return ""
    judged = results.load_table("claims")
    shown = judged[judged["item"].isin([FIGURES[name].item, TABLES.get(name)]) & (judged["reading"] == "")]
    return ", ".join(f"{claim} {verdict}" for claim, verdict in claims.verdicts(shown).items())


def _layers(scale: Scale) -> dict[str, str]:
    """Per appendix (t: the t-SNE), the networks whose features SSP drives, with the layer."""
    networks = {
        "a": scale.a.sources.values(),
        "t": [scale.a.features],
        "e": [scale.e.surrogate],
        "f": [scale.f.feature_surrogate],
        "g": [scale.g.robust],
    }
    return {part: ", ".join(f"{name} {scale.networks[name].tap}" for name in names) for part, names in networks.items()}


def _listed(scale: Scale) -> dict[str, str]:
    return {
        "ensemble": ", ".join(scale.g.ensemble),
        "pictured": " and ".join(scale.d.pictured),
        "generator": next(iter(scale.d.generators)),
        "longest": str(max(scale.a.iterations)),
    }
