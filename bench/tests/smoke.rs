//! Every scenario runs to its end, and what it measured is there and can be drawn and compared.
//! Nothing is said about how fast.

use std::process::Command;

use serde_json::Value;

#[test]
fn every_scenario_runs_and_measures_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("run.json");
    let output = Command::new(env!("CARGO_BIN_EXE_walhub-bench"))
        .args(["--smoke", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let reports: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let list = Command::new(env!("CARGO_BIN_EXE_walhub-bench")).arg("list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let listed: Vec<&str> = list.lines().filter_map(|line| line.split(' ').next()).collect();
    let ran: Vec<&str> = reports
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|report| report["scenario"].as_str())
        .collect();
    assert_eq!(ran, listed);

    for report in reports.as_array().unwrap() {
        for experiment in report["experiments"].as_array().unwrap() {
            let first = experiment["figures"][0]["key"].as_str().unwrap();
            let legs = experiment["rounds"][0]["legs"].as_array().unwrap();
            assert_eq!(legs.len(), experiment["sides"].as_array().unwrap().len());
            for leg in legs {
                assert!(leg["values"][first].as_f64().unwrap() > 0.0, "{experiment}");
            }
        }
    }

    let page = dir.path().join("report.html");
    let drawn = bench(&["report", json.to_str().unwrap(), "-o", page.to_str().unwrap()]);
    assert!(drawn.status.success(), "{drawn:?}");
    let page = std::fs::read_to_string(&page).unwrap();
    for name in listed {
        assert!(page.contains(&format!("<h2 id=\"{name}\">")), "{name}");
    }
    let json = json.to_str().unwrap();
    let compared = bench(&["compare", json, json]);
    let said = String::from_utf8_lossy(&compared.stdout);
    assert!(compared.status.success() && said.contains("no regression"), "{compared:?}");
}

fn bench(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_walhub-bench")).args(arguments).output().unwrap()
}
