"""Progress in a log file: whole lines with rate and time left, no carriage returns."""

from pipeline.core.progress import progress


def test_a_log_file_gets_lines(capsys):
    with progress(4, what="training", unit="steps", done=1) as bar:
        for _ in range(3):
            bar.update()
            bar.refresh()
    told = capsys.readouterr().err
    assert "\r" not in told
    lines = told.splitlines()
    assert lines[-1].startswith("training: 100%")
    assert "4/4" in lines[-1]
    assert "steps" in lines[-1]


def test_of_several_processes_one_shows_it(capsys):
    with progress(4, what="training", unit="steps", shown=False) as bar:
        bar.update()
    assert capsys.readouterr().err == ""
