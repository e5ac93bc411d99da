"""The conditions as a process in the image sees them, and the program that asks for them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Conditions(BaseModel):
    """The conditions as a process in the image sees them."""

    model_config = ConfigDict(frozen=True, strict=True)

    uid: int
    passwd: Annotated[list[str | int], Field(min_length=7)] | None
    home: str | None
    capabilities: int
    no_new_privileges: bool
    input_target: str
    input_is_link: bool
    input_refuses: bool
    model_refuses: bool
    tmp: list[str]
    tmp_type: list[str]
    output: list[str]
    output_mode: str
    data: int
    shm: int
    offline: bool
    cuda: str | None


PROBE = """
import json, os, pwd, resource, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
def cuda():
    import importlib.util
    found = importlib.util.find_spec("torch")
    path = os.path.join(found.submodule_search_locations[0], "version.py") if found else ""
    names = {}
    if os.path.exists(path):
        exec(open(path).read(), names)
    return names.get("cuda")
def passwd():
    try:
        return list(pwd.getpwuid(os.getuid()))
    except KeyError:
        return None
def connects():
    socket.create_connection(("192.0.2.1", 80), timeout=2)
print(json.dumps({
    "uid": os.getuid(), "passwd": passwd(), "home": os.environ.get("HOME"),
    "capabilities": int(status["CapEff"], 16), "no_new_privileges": status["NoNewPrivs"].strip() == "1",
    "input_target": os.path.realpath("/input"), "input_is_link": os.path.islink("/input"),
    "input_refuses": refused(lambda: open("/input/probe", "w")),
    "model_refuses": refused(lambda: open("/opt/ml/model/probe", "w")),
    "tmp": os.listdir("/tmp"), "tmp_type": [l.split()[2] for l in open("/proc/mounts") if l.split()[1] == "/tmp"],
    "output": os.listdir("/output"), "output_mode": oct(os.stat("/output").st_mode & 0o7777),
    "data": resource.getrlimit(resource.RLIMIT_DATA)[0],
    "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "offline": refused(connects), "cuda": cuda(),
}))
"""
"""Run by the image's ``python3``; prints JSON."""
