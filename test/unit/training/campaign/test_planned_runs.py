import re
import tomllib

import pytest
from paths import PROJECT
from refusals import refused_with

from contract.card import card_path
from contract.records import RunRecord, read_record
from contract.schema import parse_toml
from training.campaign import CampaignFile, load_campaign
from training.campaign.campaign_file import Resources, SlurmOptions

CAMPAIGNS = PROJECT / "training" / "campaigns"


def test_a_campaign_is_configurations_times_folds_times_restarts(campaign_file, tmp_path):
    campaign = load_campaign(campaign_file(restarts=[1, 4]))
    assert [planned.name for planned in campaign.planned] == [
        f"{configuration}_fold{fold}_restart{restart}"
        for restart in (1, 4)
        for configuration in ("ce", "focal")
        for fold in (0, 2)
    ]
    assert len({planned.run.key.seed for planned in campaign.planned}) == 8
    assert {planned.folder.path.parent for planned in campaign.planned} == {tmp_path / "runs"}
    other = load_campaign(campaign_file(restarts=[1, 4], seed=1))
    assert not {planned.run.key.seed for planned in campaign.planned} & {
        planned.run.key.seed for planned in other.planned
    }


def test_the_records_of_planned_runs_follow_a_corrected_campaign(campaign_file):
    for planned in load_campaign(campaign_file()).planned:
        planned.announce()
    corrected = load_campaign(campaign_file(seed=1)).planned
    for planned in corrected:
        planned.announce()
        assert read_record(planned.folder.record, RunRecord).key == planned.run.key
    corrected[0].folder.card.write_text("of a run that began")
    with refused_with(str(corrected[0].folder.card)):
        load_campaign(campaign_file())


def test_an_order_plans_the_same_run_in_another_process(campaign_file):
    for planned in load_campaign(campaign_file()).planned:
        again = planned.spec.planned()
        assert again.run.key == planned.run.key
        assert again.run.parents == planned.run.parents
        assert again.folder.path == planned.folder.path.absolute()


def test_the_dataset_may_be_asked_for_by_its_card(campaign_file, tmp_path):
    assert load_campaign(campaign_file(card="cspca-picai")).file.card == "cspca-picai"
    (tmp_path / "mine.toml").write_text(card_path("cspca-picai").read_text())
    assert load_campaign(campaign_file(card="mine.toml")).planned


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"surprise": 1, "workers": 0}, "campaign.toml: 2 faults"),
        ({"resources": {"packd": 2}, "slurm": {"gpus_per_run": 2}}, "campaign.toml: 2 faults: resources.packd: Extra"),
        ({"slurm": {"gpus_per_run": 2}}, "gpus_per_run: expected 0 or 1, found 2"),
        ({"slurm": {"time_limit_minutes": 0, "setup": "exit"}}, "campaign.toml: 2 faults"),
        ({"resources": {"devices": [0, 0]}}, "devices: duplicate device"),
        ({"resources": {"workers": 3}, "workers": 2}, "workers: 2 here and 3 in resources"),
        ({"output": None}, "campaign.toml: output is missing: set it here or pass --output"),
        ({"prepared": None}, "campaign.toml: prepared is missing: set it here or pass --prepared"),
        ({"configurations": ["ce", "ce"]}, "campaign.toml: duplicate run ce_fold0_restart1"),
        ({"restarts": list(range(1001))}, "campaign.toml: 1 fault: restarts: Tuple should have at most 1000 items"),
        (
            {"restarts": list(range(1, 1001)), "folds": [0, 1, 2]},
            "campaign.toml: expected at most 2000 runs, found 6000",
        ),
        ({"restarts": [10**7]}, "campaign.toml: 1 fault: restarts.0: Input should be less than or equal to 1000000"),
        ({"slurm": {"poll_seconds": 1e300}}, "campaign.toml: expected numbers within ±1e+15, found 1e+300"),
        ({"configurations": ["nonsense"]}, "configuration 'nonsense': expected one of"),
        ({"profile": "nonsense"}, "profile 'nonsense': expected one of"),
        ({"folds": [0, 3]}, "expected a fold from 0 to 2, found 3"),
        ({"card": "nonsense"}, "card 'nonsense': expected one of cspca-picai"),
        ({"card": "pdac-panorama"}, "campaign.toml: expected a dataset of card pdac-panorama ("),
    ],
)
def test_faults_of_a_campaign_file_are_refused(campaign_file, changes, expected, tmp_path, refusal):
    message = refusal("campaign", campaign_file(**changes))
    assert expected in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("path", sorted(CAMPAIGNS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_campaigns_that_come_with_the_project_are_valid(path):
    assert parse_toml(path, CampaignFile).processes == 2


def test_the_example_of_forty_runs_has_forty():
    file = parse_toml(CAMPAIGNS / "demo-40.toml", CampaignFile)
    assert len(file.configurations) * len(file.folds) * len(file.restarts) == 40


def test_the_campaign_of_the_documentation_is_valid(tmp_path):
    document = CAMPAIGNS.parents[1] / "docs" / "campaigns.md"
    (example,) = re.findall(r"```toml\n(.*?)```", document.read_text(), re.DOTALL)
    (tmp_path / "campaign.toml").write_text(example)
    file = parse_toml(tmp_path / "campaign.toml", CampaignFile)
    assert set(tomllib.loads(example)["slurm"]) == set(SlurmOptions.model_fields)
    assert set(tomllib.loads(example)["resources"]) == set(Resources.model_fields)
    assert file.slurm.additional == {"qos": "low"}
