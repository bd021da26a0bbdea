"""One table as one file a split, for the stages after labelling.

    examples.parquet -> examples.train.parquet, examples.calibration.parquet, ...

`fit` reads the train file, `calibrate` the calibration and certification files, `evaluate` the test file. The
split stands in the rows already (`upshift prompts` put it there), so nothing is decided here.
"""

from __future__ import annotations

from pathlib import Path

from routing.errors import ExamplesError
from trainer.table_file import Row, decode_messages, read_rows, write_rows


def split_table(table: Path) -> dict[str, Path]:
    """Write the files beside the table; returns them by split, in order of first appearance. Raises
    `ExamplesError` naming the row that has no split."""
    rows: dict[str, list[Row]] = {}
    for number, row in read_rows(table):
        where = f"{table}, row {number}"
        name = row.get("split")
        if not isinstance(name, str) or not name:
            raise ExamplesError(f"{where}: split is {name!r}, a name was expected; see upshift prompts")
        rows.setdefault(name, []).append({**row, "messages": decode_messages(row, where)})
    files = {name: table.with_name(f"{table.stem}.{name}{table.suffix}") for name in rows}
    for name, path in files.items():
        write_rows(path, rows[name])
    return files
