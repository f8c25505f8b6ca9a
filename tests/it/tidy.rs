//! The house rules that Cargo cannot hold: who may import whom, and that what the documents name exists.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::taxiway;

/// Modules and what each may import; `model` is open to all.
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        ("model", vec![]),
        ("bench", vec![]),
        ("runtime", vec![]),
        ("query", vec![]),
        ("render", vec![]),
        ("store", vec!["runtime"]),
        ("source", vec![]),
        ("ingest", vec!["store", "runtime"]),
        ("collect", vec!["source", "ingest", "store", "runtime"]),
        ("feed", vec!["query", "render", "store", "runtime"]),
        ("inbox", vec!["feed", "ingest", "store", "runtime"]),
        ("export", vec!["feed", "render", "runtime"]),
        ("enrich", vec!["feed", "query", "store", "runtime"]),
        ("serve", vec!["collect", "enrich", "export", "feed", "inbox", "runtime", "source"]),
        ("config", vec!["collect", "feed", "inbox", "serve", "source", "store", "render", "query"]),
        (
            "cli",
            vec![
                "bench", "collect", "config", "enrich", "export", "feed", "inbox", "ingest", "query", "render",
                "runtime", "serve", "source", "store",
            ],
        ),
    ])
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                files_below(&path, ending, found);
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

#[test]
fn modules_import_upwards_only() {
    let allowed = allowed();
    let mut files = Vec::new();
    files_below(&root().join("src"), ".rs", &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(root().join("src")).unwrap().to_string_lossy().into_owned();
        let Some((module, rest)) = relative.split_once('/') else { continue };
        // Tests may build what they test from whatever is at hand.
        if rest.contains("tests") {
            continue;
        }
        let may = &allowed[module];
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            for part in line.split("crate::").skip(1) {
                let name: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                let known = allowed.contains_key(name.as_str());
                if known
                    && name != module
                    && name != "model"
                    && !may.contains(&name.as_str())
                    && !line.trim_start().starts_with("//")
                {
                    wrong.push(format!("src/{relative}:{}: `{module}` may not import `{name}`", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn paths_in_documents_exist() {
    let mut documents = Vec::new();
    files_below(&root(), ".md", &mut documents);
    let mut missing = Vec::new();
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let looks_like_ours = ["src/", "tests/", "benches/", "perf/", "data/", ".ci/", "examples/"]
                .iter()
                .any(|start| quoted.starts_with(start));
            let plain = !quoted.contains([' ', '<', '*', '…', '{', '$']);
            if looks_like_ours && plain && !root().join(quoted.split(':').next().unwrap()).exists() {
                missing.push(format!("{}: `{quoted}`", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_example_configuration_loads() {
    let folder = tempfile::tempdir().unwrap();
    let example = root().join("taxiway.example.toml");
    let output = taxiway(folder.path()).args(["config", "check", "--config"]).arg(&example).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
