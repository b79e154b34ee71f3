"""A training report's loss history for the UI: a plot, a table of a few points, and all of them as JSON."""

import base64
import io
from typing import Any

from forge_pipeline.training import TrainingReport

_POINTS_IN_JSON = 500  # an event is one row of the event log; the whole history is in the training report
_ROWS = 12


def loss_plot(report: TrainingReport) -> str:
    """Training and evaluation loss, and the learning rate, by step: a small PNG, base64."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 2.8), dpi=80, layout="constrained")
    axes = figure.subplots()
    train, evaluation = _curve(report, "loss"), _curve(report, "eval_loss")
    rate = _curve(report, "learning_rate")
    lines = []
    if rate:
        right = axes.twinx()
        lines += right.plot(*zip(*rate, strict=True), label="learning rate", color="#868e96", linewidth=0.8)
        right.set_ylabel("learning rate", color="#868e96")
        right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axes.set_zorder(right.get_zorder() + 1)  # the losses in front
        axes.patch.set_visible(False)
    if train:
        lines += axes.plot(*zip(*train, strict=True), label="training loss", color="#3b5bdb")
    if evaluation:
        lines += axes.plot(*zip(*evaluation, strict=True), "o-", label="evaluation loss", color="#e8590c")
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(handles=lines, fontsize="small")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def loss_rows(report: TrainingReport) -> list[dict[str, Any]]:
    """A row for the first and last step and some between, and for every evaluation (the last few of many).

    An evaluation stands in the row of its step; what was not measured there is an empty string.
    """
    steps: dict[int, dict[str, Any]] = {}
    for point in report.loss_history:
        row = steps.setdefault(point.step, {"loss": None, "eval_loss": None, "learning_rate": None, "epoch": None})
        known = {"loss": point.loss, "eval_loss": point.eval_loss, "learning_rate": point.learning_rate}
        row |= {name: value for name, value in known.items() if value is not None} | {"epoch": point.epoch}
    evaluated = [step for step, row in steps.items() if row["eval_loss"] is not None][-_ROWS:]
    shown = sorted({*_spread(sorted(steps), _ROWS), *evaluated})
    return [
        {
            "step": step,
            "epoch": f"{steps[step]['epoch']:.2f}",
            "training loss": _written(steps[step]["loss"]),
            "evaluation loss": _written(steps[step]["eval_loss"]),
            "learning rate": _written(steps[step]["learning_rate"], "{:.3g}"),
        }
        for step in shown
    ]


def loss_json(report: TrainingReport) -> dict[str, list[list[float]]]:
    """Name -> [step, value] pairs, thinned evenly to 500 where there are more; first and last stay."""
    curves = {name: _curve(report, name) for name in ("loss", "eval_loss", "learning_rate")}
    return {name: [list(pair) for pair in _spread(curve, _POINTS_IN_JSON)] for name, curve in curves.items() if curve}


def _curve(report: TrainingReport, name: str) -> list[tuple[int, float]]:
    points = [(point.step, getattr(point, name)) for point in report.loss_history]
    return [(step, value) for step, value in points if value is not None]


def _spread(values: list[Any], count: int) -> list[Any]:
    """At most `count` of `values`, evenly, the first and the last among them."""
    if len(values) <= count:
        return values
    return [values[round(index * (len(values) - 1) / (count - 1))] for index in range(count)]


def _written(value: float | None, how: str = "{:.4f}") -> str:
    return "" if value is None else how.format(value)
