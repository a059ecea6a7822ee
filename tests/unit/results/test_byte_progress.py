"""Progress of a push in bytes."""

from fsspec.implementations.local import LocalFileSystem

from pipeline.results.dvc.byte_progress import TransferProgress


def test_a_bar_counts_the_bytes_of_files_whether_they_are_reported_or_not(tmp_path):
    for name, size in (("a", 1000), ("b", 250)):
        (tmp_path / name).write_bytes(bytes(size))
    with TransferProgress("pushing") as progress:
        progress.show(1250)
        # counts of files, as a transfer reports them
        progress.set_size(2)
        with progress.branched(str(tmp_path / "a"), "copy") as file:
            LocalFileSystem().put_file(str(tmp_path / "a"), str(tmp_path / "copy"), callback=file)
        progress.relative_update()
        assert progress.bar.n == 1000
        with progress.branched(str(tmp_path / "b"), "copy") as file:
            file.relative_update(100)
            assert progress.bar.n == 1100
            # a retried file reports more than it has
            file.relative_update(400)
        assert progress.bar.n == 1250


def test_without_anything_to_send_there_is_no_bar(capsys):
    with TransferProgress("pushing") as progress:
        assert progress.bar is None
    assert capsys.readouterr().err == ""
