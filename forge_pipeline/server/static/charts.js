// The loss curve, drawn by uPlot; bars and histograms, which are tables that can be seen.
import { html, nothing, svg } from "./vendor/lit-html/lit-html.js";
import uPlot from "./vendor/uplot/uPlot.esm.js";
import { number, plural } from "./format.js";

const HEIGHT = 220;

// <loss-curve .points=${[{ step, loss, eval_loss }]}>: in the order of their steps, each loss a number or null.
class LossCurve extends HTMLElement {
  #plot = null;
  #points = [];
  #observer = new ResizeObserver(() => this.#resize());
  #scheme = matchMedia("(prefers-color-scheme: dark)");
  #redraw = () => this.#plot?.redraw();

  set points(points) {
    this.#points = points;
    if (this.isConnected) this.#show();
  }

  connectedCallback() {
    this.setAttribute("role", "img");
    this.#observer.observe(this);
    this.#scheme.addEventListener("change", this.#redraw);
    addEventListener("forge-theme", this.#redraw);
    this.#show();
  }

  disconnectedCallback() {
    this.#observer.disconnect();
    this.#scheme.removeEventListener("change", this.#redraw);
    removeEventListener("forge-theme", this.#redraw);
    this.#plot?.destroy();
    this.#plot = null;
  }

  #show() {
    const points = this.#points;
    this.setAttribute("aria-label", spoken(points));
    this.dataset.points = points.length;
    const data = [points.map((p) => p.step), points.map((p) => p.loss ?? null), points.map((p) => p.eval_loss ?? null)];
    if (this.#plot) this.#plot.setData(data);
    else if (this.clientWidth) this.#plot = new uPlot(this.#options(), data, this);
  }

  #resize() {
    if (!this.#plot) this.#show();
    else if (this.clientWidth !== this.#plot.width) this.#plot.setSize({ width: this.clientWidth, height: HEIGHT });
  }

  #options() {
    const color = (name) => () => getComputedStyle(this).getPropertyValue(name);
    const axis = { stroke: color("--muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
    return {
      width: this.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { points: { size: 7 }, drag: { x: true, y: false } },
      scales: { x: { time: false } },
      axes: [
        { ...axis, label: "step", labelSize: 18, size: 32, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5, 1e6] },
        { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => number(tick, 3)) },
      ],
      series: [
        {},
        { label: "training loss", stroke: color("--accent"), width: 2, spanGaps: true, points: { show: false } },
        { label: "loss on held-out rows", stroke: color("--good"), width: 2, spanGaps: true, points: { show: true, size: 6, fill: color("--good") } },
      ],
      hooks: { setCursor: [(plot) => this.#tell(plot.cursor.idx)] },
    };
  }

  #tell(index) {
    const point = this.#points[index];
    this.dispatchEvent(new CustomEvent("point", { detail: point ?? null }));
  }
}
customElements.define("loss-curve", LossCurve);

function spoken(points) {
  const losses = points.filter((point) => point.loss !== null && point.loss !== undefined);
  if (!losses.length) return "Loss over the training: nothing measured yet";
  const first = losses[0], last = losses.at(-1), held = points.filter((point) => point.eval_loss).at(-1);
  const tail = held ? `; on held-out rows ${number(held.eval_loss)} at step ${held.step}` : "";
  return `Loss over the training: ${number(first.loss)} at step ${first.step}, ${number(last.loss)} at step ${last.step}${tail}`;
}

export function curve(points, chosen, onPoint) {
  const held = points.some((point) => point.eval_loss);
  const shown = chosen ?? points.at(-1);
  return html`<div class="curve">
    <p class="legend">
      <span class="series loss">training loss</span>${held ? html`<span class="series held">loss on held-out rows</span>` : nothing}
      ${shown ? html`<span class="at">step ${number(shown.step)}: ${number(shown.loss)}${shown.eval_loss ? `, held out ${number(shown.eval_loss)}` : ""}</span>` : nothing}
    </p>
    <loss-curve .points=${points} @point=${(event) => onPoint?.(event.detail)}></loss-curve>
  </div>`;
}

// Counts by name, the largest bar being the full width. items: [{ name, count, detail? }]
export function bars(items, { caption, empty = "None found." }) {
  if (!items.length) return html`<p class="empty">${empty}</p>`;
  const most = Math.max(...items.map((item) => item.count), 1);
  return html`<table class="bars"><caption class="for-readers">${caption}</caption><tbody>
    ${items.map((item) => html`<tr>
      <th scope="row">${item.name}${item.detail ? html` <small>${item.detail}</small>` : nothing}</th>
      <td><svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect width=${(100 * item.count) / most} height="10"></rect></svg></td>
      <td class="count">${number(item.count)}</td>
    </tr>`)}
  </tbody></table>`;
}

// Bins of a length or the like. bins: [{ from, to, count }]
export function histogram(bins, { caption, unit }) {
  const most = Math.max(...bins.map((bin) => bin.count), 1), width = 100 / Math.max(bins.length, 1);
  const label = `${caption}: ${bins.map((bin) => `${number(bin.from)} to ${number(bin.to)} ${unit}: ${bin.count}`).join("; ")}`;
  return html`<figure class="histogram">
    <svg viewBox="0 0 100 40" preserveAspectRatio="none" role="img" aria-label=${label}>
      ${bins.map((bin, place) => {
        const height = bin.count ? Math.max(0.6, (39 * bin.count) / most) : 0;
        return svg`<rect x=${place * width + width * 0.06} y=${40 - height} width=${width * 0.88} height=${height}><title>${`${number(bin.from)} to ${number(bin.to)} ${unit}: ${plural(bin.count, "row")}`}</title></rect>`;
      })}
    </svg>
    <figcaption><span>${number(bins[0]?.from ?? 0)}</span><span>${unit}</span><span>${number(bins.at(-1)?.to ?? 0)}</span></figcaption>
  </figure>`;
}
