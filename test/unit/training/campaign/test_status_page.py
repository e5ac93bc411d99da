import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from training.campaign import load_campaign
from training.campaign.status import ExecutorMessage, StatusMonitor
from training.campaign.status_page import POINTS, panels, thinned, ticks, time_to_go, write_status_page

VOID = {"meta", "col", "link"}


class Balanced(HTMLParser):
    """Fails where tags do not match; notes what a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.ids, self.targets = [], [], set(), set()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.fetched += [attributes[key] for key in ("src", "srcset") if key in attributes] + [tag] * (tag == "link")
        self.ids |= {attributes["id"]} if "id" in attributes else set()
        if (attributes.get("href") or "").startswith("#"):
            self.targets.add(attributes["href"][1:])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def campaign(campaign_file, write_run):
    """Two runs finished, one failed, one of the last two queued."""
    campaign = load_campaign(campaign_file(restarts=[1, 2], folds=[0]))
    for planned, state, epochs in zip(campaign.planned, ["finished", "failed", "finished"], [3, 1, 3], strict=False):
        write_run(planned, state, epochs=epochs)
    campaign.planned[1].folder.log.write_text("expected <a finite loss>, found nan\n")
    return campaign


def page_of(campaign, messages=None):
    return write_status_page(StatusMonitor(campaign).look(messages)).read_text()


def test_the_page_is_whole_and_self_contained_and_its_links_resolve(campaign):
    page = page_of(campaign)
    parser = Balanced()
    parser.feed(page)
    assert (parser.open, parser.fetched) == ([], [])
    assert not re.search(r"https?://|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    assert {planned.name for planned in campaign.planned} == parser.targets
    assert parser.targets <= parser.ids


def test_every_run_and_why_one_failed_is_on_the_page(campaign):
    messages = {campaign.planned[3].name: ExecutorMessage("queued", message="QOSMaxJobs")}
    page = page_of(campaign, messages)
    for planned in campaign.planned:
        assert page.count(f'id="{planned.name}"') == 1
    assert "expected &lt;a finite loss&gt;, found nan" in page
    assert "QOSMaxJobs" in page
    assert 'aria-label="1 queued, 1 failed, 2 finished; 0.02 CPU-hours spent"' in page


def test_the_page_reloads_until_all_is_finished(campaign, write_run):
    assert 'http-equiv="refresh"' in page_of(campaign)
    for planned in campaign.planned:
        write_run(planned, "finished", epochs=3)
    assert 'http-equiv="refresh"' not in page_of(campaign)


def test_a_campaign_without_an_epoch_has_a_page_too(campaign_file, tmp_path):
    campaign = load_campaign(campaign_file())
    (tmp_path / "runs").mkdir()
    page = page_of(campaign)
    assert "<polyline" not in page
    assert "0 <span" in page


def test_each_run_is_a_thin_line_and_their_mean_a_bold_one(campaign):
    by_name = {panel.configuration: panel for panel in panels(StatusMonitor(campaign).look())}
    ce, focal = by_name["ce"], by_name["focal"]
    assert (ce.runs, ce.with_epochs, focal.runs, focal.with_epochs) == (2, 2, 2, 1)
    assert len([line for line in ce.lines if not line.is_mean]) == 4  # two runs, training and validation
    assert [line.is_mean for line in focal.lines] == [False, False]  # one run needs no mean
    train = next(line for line in ce.lines if line.name == "ce_fold0_restart1" and line.kind == "train")
    heights = [float(point.split(",")[1]) for point in train.points.split()]
    assert heights == sorted(heights)  # the loss falls: 1, 1/2, 1/3; y runs downwards
    assert (heights[1] - heights[0]) / (heights[2] - heights[1]) == pytest.approx(3, rel=0.02)  # 1/2 to 1/6


def test_the_curves_are_valid_svg(campaign):
    drawings = re.findall(r"<svg.*?</svg>", page_of(campaign), re.DOTALL)
    assert drawings
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_long_curves_are_thinned_to_means_of_neighbours():
    line = [(float(epoch), 2.0 * epoch) for epoch in range(1000)]
    few = thinned(line)
    assert 100 <= len(few) <= POINTS
    assert few[0] == (4.0, 8.0)  # mean of epochs 0 to 8
    assert thinned(line[:POINTS]) == line[:POINTS]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (1, 400, [100, 200, 300, 400]), (-0.62, 0.12, [-0.6, -0.4, -0.2, 0])],
)
def test_ticks_are_round_numbers_within(low, high, expected):
    assert ticks(low, high, at_most=5) == pytest.approx(expected)


def test_the_time_to_go_shares_the_rest_among_the_runs_at_work(campaign_file, write_run):
    campaign = load_campaign(campaign_file())
    assert time_to_go(StatusMonitor(campaign).look()) is None
    for planned in campaign.planned[:2]:
        write_run(planned, "running", epochs=1, epoch_s=600)
    # just written, so both count as at work: 2 + 2 + 3 + 3 epochs of 600 s, two at a time
    assert time_to_go(StatusMonitor(campaign).look()) == "50 min"
