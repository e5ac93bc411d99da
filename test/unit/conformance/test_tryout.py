"""Without gcapi, as in ``.venv``, tryout names the lock that contains it.

With gcapi it is tested in ``test/tryout``, in a separate environment.
"""

from conformance.studies.synthetic_studies import make_study
from conformance.tryout import TOKEN, main
from contract.card import load_card


def test_without_gcapi_the_message_names_its_lock(tmp_path, monkeypatch, capsys):
    card = load_card("cspca-picai")
    (tmp_path / "archive" / "7").mkdir(parents=True)
    for channel in card.channels:
        (content,) = [c for path, c in make_study(card).files.items() if path.startswith(channel.socket.relative_path)]
        (tmp_path / "archive" / "7" / f"7_8_{channel.name}.mha").write_bytes(content)
    monkeypatch.setenv(TOKEN, "a-token")
    words = ["--algorithm", "a", "--card", card.name, "--study", tmp_path / "archive", "--local", tmp_path]
    assert main([str(word) for word in words]) == 3
    assert capsys.readouterr().err == (
        "error: gcapi: not installed; install requirements/tryout.lock in a separate environment\n"
    )
