"""What one case may cost, whatever a small file holds: 2 GB and a minute of a processor, or it is refused."""

import json
from pathlib import Path

import pytest
from paths import PROJECT
from programs import python

MOST_SECONDS = 60
HOSTILE = {
    "flood": "map.mha: expected at most 2048 connected components, found 327680: too scattered for a lesion map",
    "checkerboard": "map.mha: more than 8388608 voxels are not zero",
    "noise": "map.mha: expected at most 524288 runs of voxels along x, found 1952965: too scattered for a lesion map",
    "small checkerboard": "scored",
    "full": "scored",
    "as many as may be": "scored",
    "snakes": "scored",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), HOSTILE.items(), ids=HOSTILE.keys())
def test_a_hostile_map_is_scored_or_refused_in_two_gigabytes_and_a_minute(tmp_path: Path, name: str, said: str) -> None:
    program = Path(__file__).parent / "hostile_map.py"
    done = python(program, tmp_path, name, PYTHONPATH=f"{PROJECT}")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert said in answer["said"]
    assert answer["seconds"] < MOST_SECONDS
