"""The exported files of one model for the UI: size against distance from the merged model, as a plot."""

import base64
import io

from forge_pipeline.export import ExportReport
from forge_pipeline.export.result import ADAPTER

_LEAST_KL = 1e-8  # where a distance of zero is drawn


def size_plot(report: ExportReport) -> str | None:
    """Mean KL divergence (logarithmic) over file size: a small PNG, base64; None where nothing was measured.

    A bar goes up to the 99th percentile. The adapter, which is no model by itself, is left out.
    """
    measured = [(file, file.fidelity) for file in report.files if file.fidelity and file.quantization != ADAPTER]
    if not measured:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 2.8), dpi=80, layout="constrained")
    axes = figure.subplots()
    for file, fidelity in measured:
        megabytes, mean = file.size / 1e6, max(fidelity.mean_kl, _LEAST_KL)
        axes.plot([megabytes], [mean], "o", color="#3b5bdb")
        if fidelity.p99_kl is not None:
            axes.vlines(megabytes, mean, max(fidelity.p99_kl, mean), color="#868e96", linewidth=0.8)
        axes.annotate(file.quantization, (megabytes, mean), xytext=(4, 4), textcoords="offset points", fontsize="small")
    axes.set(xlabel="MB", ylabel="mean KL (nats), line to 99 %", yscale="log")
    axes.margins(x=0.12, y=0.15)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return base64.b64encode(buffer.getvalue()).decode()
