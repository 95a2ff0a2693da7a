"""The curve of the quickstart, as recorded on 2026-11-29 with torch 2.13 on a CPU: `metrics.jsonl` of the run."""

from __future__ import annotations

from _svg import BLUE, GREY, ORANGE, QUIET, Axes, Picture, save

LOSS = [  # of training, every 30 steps
    7.481, 7.383, 7.274, 7.100, 6.942, 7.007, 6.883, 6.871, 6.824, 6.911, 6.877, 6.789, 6.856, 6.794, 6.825, 6.844,
    6.737, 6.683, 6.672, 6.695, 6.692, 6.740, 6.676, 6.745, 6.606, 6.746, 6.567, 6.672, 6.630, 6.601, 6.583,
]  # fmt: skip
SPEARMAN = [0.3240, 0.4025, 0.4489, 0.4599, 0.4800, 0.4925, 0.5297, 0.5514, 0.5641, 0.5700]  # of dev, after each pass
STEPS, OVERLAP = 930, -0.14


def draw() -> Picture:
    picture = Picture(640, 315, "Training loss and dev Spearman of the quickstart")
    picture.heading(
        "The quickstart, step by step", "Left the training loss, right the Spearman correlation on dev after each pass."
    )
    ends = {0: "0", 310: "310", 620: "620", STEPS: str(STEPS)}
    loss = Axes(
        picture,
        (50, 90, 240, 170),
        x=(0, STEPS),
        y=(6.4, 7.6),
        labels=("step", "loss"),
        ticks=(ends, {6.5: "6.5", 7: "7", 7.5: "7.5"}),
    )
    loss.curve([10 + 30 * number for number in range(len(LOSS))], LOSS, BLUE)
    names = {-0.14: "-.14", 0: "0", 0.2: ".2", 0.4: ".4", 0.6: ".6"}
    dev = Axes(
        picture, (360, 90, 240, 170), x=(0, STEPS), y=(-0.2, 0.62), labels=("step", "Spearman"), ticks=(ends, names)
    )
    for value, colour in ((0, GREY), (OVERLAP, QUIET)):
        left, y = dev.place(0, value)
        picture.line(left, y, left + 240, y, colour, width=1, dash="4 3")
    picture.text(600, dev.place(0, OVERLAP)[1] - 5, "counting common characters", size=11, anchor="end", colour=QUIET)
    steps = [STEPS * (number + 1) / len(SPEARMAN) for number in range(len(SPEARMAN))]
    dev.curve(steps, SPEARMAN, ORANGE)
    for step, value in zip(steps, SPEARMAN, strict=True):
        picture.circle(*dev.place(step, value), 3.5, ORANGE)
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
