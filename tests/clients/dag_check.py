"""Loads a DAG file as Airflow does, runs what its tasks run, one after another, and reports what came of it.

    python dag_check.py --dag examples/airflow-dag/count_mail.py

The file goes through Airflow's DagBag; the tasks' functions are then called here, each with what the ones before it
returned, without a scheduler and without Airflow's database. One JSON object goes to stdout. Ends with 0 only if the
file could be loaded and every task ran.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves it out
from loopback import REFUSED_HOSTS  # noqa: E402  (before what it is to watch)


def check(dag_file: str) -> dict:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import XComArg

    bag = DagBag(dag_folder=dag_file)
    report = {"import_errors": list(bag.import_errors), "dags": {}, "error": None}
    for dag in bag.dags.values():
        returned: dict[str, object] = {}
        report["dags"][dag.dag_id] = returned

        def resolve(value: object, returned: dict[str, object] = returned) -> object:
            return returned[value.operator.task_id] if isinstance(value, XComArg) else value

        for task in dag.topological_sort():
            try:
                arguments = [resolve(value) for value in task.op_args]
                named = {name: resolve(value) for name, value in task.op_kwargs.items()}
                returned[task.task_id] = task.python_callable(*arguments, **named)
            except Exception as error:  # whatever a task of somebody's raises
                # The name only: a message may quote what was read.
                report["error"] = f"{task.task_id}: {type(error).__name__}"
                break
    report["refused_hosts"] = REFUSED_HOSTS
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description="Loads a DAG file and runs its tasks.")
    parser.add_argument("--dag", required=True, help="the file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        # Before the first import of Airflow, which makes its folders there.
        os.environ.update(AIRFLOW_HOME=home, AIRFLOW__CORE__LOAD_EXAMPLES="False")
        # What Airflow and the tasks print is not the report.
        with contextlib.redirect_stdout(sys.stderr):
            report = check(args.dag)
    print(json.dumps(report))
    return 0 if report["dags"] and not report["import_errors"] and not report["error"] else 1


if __name__ == "__main__":
    sys.exit(main())
