"""What Spark Streaming gives for the same batches by reduceByKey, updateStateByKey and
reduceByKeyAndWindow: see README.md beside this file.

    pip install 'pyspark==3.5.*' && python3 record.py > recorded.json
"""
import json
import os
import random
import tempfile
import time
from operator import add

from pyspark import SparkConf, SparkContext
from pyspark.streaming import StreamingContext

INTERVAL = 2
QUIET = [
    ("spark.default.parallelism", "1"),
    ("spark.ui.enabled", "false"),
    ("spark.ui.showConsoleProgress", "false"),
]
WINDOWS = [(2, 1), (3, 2), (6, 3)]


def batches(seed):
    choose = random.Random(seed)
    words = ["a", "b", "c", "d", "", "é", "\u200d", "it's", 'q"', "\\"]

    def line():
        return " ".join(choose.choice(words) for _ in range(choose.randrange(0, 6)))

    return [[line() for _ in range(choose.choice([0, 0, 1, 2, 5]))] for _ in range(11)]


def keeper(path, name):
    # The checkpoint pickles this: nothing but text may be captured.
    def keep(at, rdd):
        row = [name, round(at.timestamp() * 1000), sorted(rdd.collect())]
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")

    return keep


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def run(epochs):
    path = os.path.join(tempfile.mkdtemp(), "rows")
    open(path, "w").close()
    sc = SparkContext(conf=SparkConf().setMaster("local[2]").setAppName("record").setAll(QUIET))
    sc.setLogLevel("ERROR")
    ssc = StreamingContext(sc, INTERVAL)
    ssc.checkpoint(tempfile.mkdtemp())
    queue = [sc.parallelize(lines, 1) for lines in epochs]
    lines = ssc.queueStream(queue, default=sc.parallelize([], 1))
    pairs = lines.flatMap(lambda line: line.split(" ")).map(lambda word: (word, 1))
    pairs.reduceByKey(add).foreachRDD(keeper(path, "reduceByKey"))
    for window, slide in WINDOWS:
        counts = pairs.reduceByKeyAndWindow(add, None, window * INTERVAL, slide * INTERVAL)
        counts.foreachRDD(keeper(path, f"reduceByKeyAndWindow {window} {slide}"))
    totals = pairs.updateStateByKey(lambda new, old: sum(new) + (old or 0))
    totals.foreachRDD(keeper(path, "updateStateByKey"))
    ssc.start()
    # Outputs of a batch run in order: with one more of the last, all of the others are there.
    while sum(name == "updateStateByKey" for name, _, _ in read(path)) <= len(epochs):
        time.sleep(1)
    ssc.stop(stopSparkContext=True, stopGraceFully=False)
    rows = read(path)
    start = min(at for _, at, _ in rows)
    results = {}
    for name, at, counts in rows:
        batch = (at - start) // (INTERVAL * 1000)
        if batch < len(epochs):
            results.setdefault(name, {})[batch] = counts
    return {
        "first_batch_ms": start,
        "interval_ms": INTERVAL * 1000,
        "lines": epochs,
        "results": results,
    }


def show(recording):
    """One result a line, so that a change can be read."""
    head = {name: recording[name] for name in ("first_batch_ms", "interval_ms", "lines")}
    text, results = json.dumps(head), recording["results"].items()
    return text[:-1] + ', "results": {\n' + ",\n".join(
        f"{json.dumps(name)}: {json.dumps(batches)}" for name, batches in results
    ) + "\n}}"


if __name__ == "__main__":
    print("[" + ",\n".join(show(run(batches(seed))) for seed in (1, 2)) + "]")
