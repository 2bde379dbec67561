"""The alerts, against recorded series; and that alerts and dashboard speak of
metrics that there are."""

import json
import pathlib
import re
import subprocess
import tempfile
import unittest

import yaml

from manifests import ROOT, build, find, metrics

HERE = pathlib.Path(__file__).parent
# What Prometheus adds when it scrapes, and to histograms.
ADDED = {"namespace", "pod", "container", "le"}


def rules():
    return find(build("overlays/demo"), "PrometheusRule", "watchmark")["spec"]


def alerts():
    return [rule for group in rules()["groups"] for rule in group["rules"]]


def queries():
    """Of the dashboard, as Prometheus gets them."""
    text = find(build("overlays/demo"), "ConfigMap", "watchmark-dashboard")["data"]["watchmark.json"]
    found = [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]
    assert len(found) > 20
    return [it.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$pod", ".*") for it in found]


def promtool(*arguments):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True)


class Alerts(unittest.TestCase):
    def test_they_fire_when_they_should(self):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "rules.yaml").write_text(yaml.safe_dump(rules()))
            tests = pathlib.Path(directory, "alerts.yaml")
            tests.write_text((HERE / "alerts.yaml").read_text())
            done = promtool("test", "rules", str(tests))
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_each_is_seen_to_fire_and_not_to_fire(self):
        fires, is_silent = set(), set()
        for test in yaml.safe_load((HERE / "alerts.yaml").read_text())["tests"]:
            for case in test["alert_rule_test"]:
                (fires if case.get("exp_alerts") else is_silent).add(case["alertname"])
        names = {rule["alert"] for rule in alerts()}
        self.assertEqual(fires, names)
        self.assertEqual(is_silent, names)

    def test_they_are_what_the_page_says(self):
        section = re.search(r"## What to alert on\n(.*?)\n## ", (ROOT / "docs/operate.md").read_text(), re.S)[1]
        told = set(re.findall(r"watchmark_\w+", section))
        used = {name for rule in alerts() for name in re.findall(r"watchmark_[a-z_]+", rule["expr"])}
        self.assertEqual({it.removesuffix("_bucket") for it in used}, told)


class Names(unittest.TestCase):
    def test_every_metric_and_label_is_in_the_catalog(self):
        catalog = metrics()
        for expression in [rule["expr"] for rule in alerts()] + queries():
            with self.subTest(expression):
                used = re.findall(r"\b((?:watchmark|process)_[a-z_]+)\b(?:\{(.*?)\})?", expression)
                labels = set()
                for name, matchers in used:
                    name = name.removesuffix("_bucket")
                    self.assertIn(name, catalog)
                    labels |= catalog[name]
                    self.assertLessEqual(set(re.findall(r"(\w+)(?:=|!)", matchers)), catalog[name] | ADDED)
                self.assertTrue(used or "up{" in expression)
                for grouping in re.findall(r"\bby \((.*?)\)", expression):
                    self.assertLessEqual(set(grouping.split(", ")), labels | ADDED)

    def test_every_query_parses(self):
        records = [{"record": f"panel:{i}", "expr": it} for i, it in enumerate(queries())]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}, file)
            file.flush()
            done = promtool("check", "rules", file.name)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
