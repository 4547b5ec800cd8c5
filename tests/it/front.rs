//! The front end: every fault has its diagnostic, what is right has none, and what is generated is up to date.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use haul::cli::render::{Paint, diagnostics};
use haul::define::{Given, Project, RunFacts, check_project, codes, resolve};
use haul::diagnostic::{Diagnostic, SourceText};
use haul::load::schema;
use haul::plan::check;

use crate::support::{Project as Folder, golden};

fn tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// The fixtures of a folder below `tests/fixtures`, by name.
fn fixtures(folder: &str) -> Vec<String> {
    let files = std::fs::read_dir(tests("fixtures").join(folder)).expect("the fixtures' folder");
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok()?.strip_suffix(".yaml").map(str::to_owned));
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".haul")).collect();
    names.sort();
    names
}

fn source(path: PathBuf, shown: String) -> Option<Arc<SourceText>> {
    Some(Arc::new(SourceText { path: shown, text: std::fs::read_to_string(path).ok()? }))
}

/// What a fixture is told, with the project file `NAME.haul.yaml` when there is one.
fn diagnose(folder: &str, name: &str) -> Vec<Diagnostic> {
    let file = |ending: &str| tests("fixtures").join(folder).join(format!("{name}{ending}"));
    let project = match source(file(".haul.yaml"), "haul.yaml".to_owned()) {
        Some(source) => Project::with_file(".", &source),
        None => Project::bare("."),
    };
    let source = source(file(".yaml"), format!("{name}.yaml")).expect("the fixture");
    let mut found = check_project(&project);
    found.extend(check(name, &source, &project).diagnostics);
    found
}

fn human(found: &[Diagnostic]) -> String {
    diagnostics::human(found, 1, Paint::new(false))
}

#[test]
fn every_fault_is_told() {
    let names = fixtures("faults");
    assert!(names.len() >= 80, "{} fixtures", names.len());
    for name in &names {
        let found = diagnose("faults", name);
        assert!(!found.is_empty(), "the fixture {name} has no problem");
        golden(&format!("fixtures/faults/{name}.expected"), &human(&found));
    }
    let expected = std::fs::read_dir(tests("fixtures/faults"))
        .expect("the fixtures' folder")
        .filter_map(|file| file.ok()?.file_name().into_string().ok()?.strip_suffix(".expected").map(str::to_owned));
    let names: BTreeSet<String> = names.into_iter().collect();
    assert_eq!(expected.collect::<BTreeSet<_>>(), names, "a golden without its fixture");
}

#[test]
fn what_is_right_is_clean() {
    for name in fixtures("valid") {
        let found = diagnose("valid", &name);
        assert!(found.is_empty(), "{name}:\n{}", human(&found));
    }
}

#[test]
fn every_fault_has_one_code_and_every_diagnostic_a_place() {
    let mut used = BTreeSet::new();
    for name in fixtures("faults") {
        let found = diagnose("faults", &name);
        for diagnostic in &found {
            used.insert(diagnostic.code);
            assert!(codes::meaning(diagnostic.code).is_some(), "{name}: the code {} is not in define::codes", diagnostic.code);
            let label = diagnostic.labels.first().unwrap_or_else(|| panic!("{name}: {} has no place", diagnostic.code));
            assert!(label.span.end <= label.source.text.len(), "{name}");
            assert!(!diagnostic.message.ends_with('.'), "{name}: {}", diagnostic.message);
        }
        if !name.starts_with("several-") {
            let codes: BTreeSet<_> = found.iter().map(|diagnostic| diagnostic.code).collect();
            assert_eq!(codes.len(), 1, "{name} holds more than one fault:\n{}", human(&found));
        }
    }
}

#[test]
fn every_code_is_in_the_table_and_explained() {
    let known: Vec<&str> = codes::CODES.iter().map(|(code, _)| *code).collect();
    assert!(known.is_sorted(), "define::codes is sorted by code");
    let docs = std::fs::read_to_string(tests("../docs/diagnostics.md")).expect("docs/diagnostics.md");
    let mut explained: Vec<&str> = docs.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    explained.sort_unstable();
    assert_eq!(explained, known, "docs/diagnostics.md and define::codes name different codes");
    for (file, code) in codes_in_source() {
        assert!(known.contains(&code.as_str()), "{file} uses the code {code}: add it to define::codes and docs/diagnostics.md");
    }
}

/// Every code that the source hands to a constructor of diagnostics, with its file.
fn codes_in_source() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![tests("../src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a source folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file");
            for marker in ["Diagnostic::error(", "Diagnostic::warning(", ".error(", "error_at_key(", "warn_at_key(", "problem(", "code: "] {
                for (at, _) in text.match_indices(marker) {
                    let rest = text[at + marker.len()..].trim_start();
                    let literal = rest.strip_prefix('"').and_then(|rest| rest.split('"').next());
                    let is_code = |code: &&str| !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
                    found.extend(literal.filter(is_code).map(|code| (path.display().to_string(), code.to_owned())));
                }
            }
        }
    }
    assert!(found.len() > 50, "the search found only {} codes", found.len());
    found
}

#[test]
fn schema_files_are_up_to_date() {
    for (name, schema) in schema::files() {
        let file = tests("../schema").join(name);
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(written == schema::text(&schema), "schema/{name} is stale: `haul schema --write` renews it");
    }
}

/// A project with one pipeline that has an error and a warning.
fn faulty() -> Folder {
    let folder = Folder::new();
    folder.file("haul.yaml", "connections:\n  shop: { url: \"postgres://localhost/shop\" }\n");
    let text = "description: 50% of: it\nstages: {}\n";
    folder.file("pipelines/broken.yaml", text);
    let stages =
        "  orders:\n    kind: batch\n    after: [itself]\n    from: { sql: shop, table: orders }\n    to: { discard: \"ü\", mode: x }\n";
    folder.file("pipelines/orders.yaml", format!("params:\n  since: {{ type: date }}\nstages:\n{stages}"));
    folder.file(
        "pipelines/nested/fine.yml",
        "stages:\n  a:\n    kind: batch\n    from: { generate: 1, columns: { id: i } }\n    to: { discard: \"x\" }\n",
    );
    folder
}

#[test]
fn validate_reports_in_every_format() {
    let folder = faulty();
    for format in ["human", "json", "github", "sarif"] {
        let said = folder.haul(&["validate", "--format", format]).expect(2);
        assert_eq!(said.stderr, "");
        golden(&format!("fixtures/formats/{format}.txt"), &said.stdout);
    }
}

#[test]
fn validate_takes_files_folders_globs_and_standard_input() {
    let folder = faulty();
    let summary = |arguments: &[&str], code: i32| {
        let said = folder.haul(&[&["validate"], arguments].concat()).expect(code);
        said.stdout.lines().last().unwrap_or_default().to_owned()
    };
    assert_eq!(summary(&["pipelines/orders.yaml"], 2), "2 errors in 1 file");
    assert_eq!(summary(&["pipelines/nested"], 0), "1 file, no problems");
    assert_eq!(summary(&["pipelines/*.yaml"], 2), "3 errors in 2 files");
    assert_eq!(summary(&["."], 2), "3 errors in 4 files");
    assert_eq!(summary(&["pipelines/nested/fine.yml", "haul.yaml"], 0), "2 files, no problems");
    let missing = folder.haul(&["validate", "nowhere.yaml"]).expect(2);
    assert!(missing.stderr.contains("nowhere.yaml"), "{}", missing.stderr);
    for nothing in ["no-*.yaml", "no-***.yaml"] {
        folder.haul(&["validate", nothing]).expect(2);
    }
    let mut command = folder.command(&["validate", "-"]);
    let file = std::fs::File::open(folder.path("pipelines/orders.yaml")).expect("the pipeline");
    let output = command.stdin(file).output().expect("haul can be started");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--> <stdin>:6:13"), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn standard_input_and_files_belong_to_the_project_that_is_named() {
    let folder = faulty();
    folder.file("elsewhere/haul.yaml", "connections:\n  depot: { url: \"sqlite:depot.db\" }\n");
    let text = "stages:\n  a:\n    kind: batch\n    from: { sql: depot, table: t }\n    to: { discard: \"x\" }\n";
    folder.file("pipelines/depot.yaml", text);
    let check = |arguments: &[&str]| {
        let file = std::fs::File::open(folder.path("pipelines/depot.yaml")).expect("the pipeline");
        let output = folder.command(&[&["validate"], arguments].concat()).stdin(file).output().expect("haul can be started");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for path in ["-", "pipelines/depot.yaml"] {
        let (code, said) = check(&[path]);
        assert!(code == Some(2) && said.contains("depot"), "{said}");
        assert_eq!(check(&[path, "--project", "elsewhere"]), (Some(0), "1 file, no problems\n".to_owned()));
    }
}

#[test]
fn every_pipeline_is_asked_about_with_its_own_params() {
    let folder = Folder::new();
    let pipeline = |name: &str, ty: &str, condition: &str| {
        let params = if ty.is_empty() { String::new() } else { format!("params:\n  since: {{ type: {ty} }}\n") };
        let stage = format!("    from: {{ generate: 1, columns: {{ id: i }} }}\n    transform: [{{ filter: \"{condition}\" }}]\n");
        folder.file(
            &format!("pipelines/{name}.yaml"),
            format!("{params}stages:\n  a:\n    kind: batch\n{stage}    to: {{ discard: \"x\" }}\n"),
        );
    };
    pipeline("all", "", "id > 0");
    pipeline("some", "int", "id > {{ params.since }}");
    let check = |params: &[&str], code: i32| {
        let params = params.iter().flat_map(|param| ["--param", param]);
        let arguments: Vec<&str> = ["validate", "--online"].into_iter().chain(params).collect();
        folder.haul(&arguments).expect(code).stdout
    };
    assert_eq!(check(&["since=3"], 0), "2 files, no problems\n");
    let said = check(&["since=3", "sicne=4"], 2);
    assert!(said.contains("no pipeline has a param `sicne`") && said.contains("did you mean `since`?"), "{said}");
    assert!(said.ends_with("\n1 error in 2 files\n"), "{said}");
    let said = check(&[], 2);
    assert!(said.contains("missing-param") && said.ends_with("\n1 error in 2 files\n"), "{said}");
}

const NEEDY: &str = "\
params:
  since: { type: date, description: The first day. }
  region: { type: text, default: emea, allowed: [emea, apac] }
connections:
  shop: { url: \"postgres://{{ env.SHOP_USER }}@localhost/{{ params.region }}\" }
stages:
  orders:
    kind: batch
    from: { sql: shop, table: orders, where: \"placed_at >= {{ params.since }}\" }
    to: { discard: \"not a template\" }
";

/// Resolves [`NEEDY`] and gives the filter and the URL, or every problem as `code: message`.
fn resolved(params: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<(String, String), Vec<String>> {
    use haul::define::pipeline::{SourceSpec, SqlRead};
    let source = Arc::new(SourceText { path: "needy.yaml".to_owned(), text: NEEDY.to_owned() });
    let mut project = Project::bare(".");
    project.variables.insert("SHOP_USER".to_owned(), "from-env-file".to_owned());
    let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let given = Given {
        params: params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        env: &env,
        run: Some(RunFacts {
            id: "r1".to_owned(),
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            scheduled_at: "2026-01-01T00:00:00Z".to_owned(),
            interval_start: "2025-12-31T00:00:00Z".to_owned(),
        }),
    };
    let outcome = resolve("needy", &source, &project, &given);
    let resolved = outcome.map_err(|found| found.iter().map(|found| format!("{}: {}", found.code, found.message)).collect::<Vec<_>>())?;
    assert!(!format!("{resolved:?}").contains("from-env-file@"), "a URL shows");
    let SourceSpec::Sql(source) = &resolved.pipeline.stages[0].flow.from[0].source else { panic!("not a SQL source") };
    let SqlRead::Table { filter: Some(filter), .. } = &source.read else { panic!("no filter") };
    Ok((filter.clone(), resolved.pipeline.connections["shop"].url.reveal().clone()))
}

#[test]
fn a_run_fills_in_params_and_environment() {
    let since = ("since", "2026-02-03");
    let filter = "placed_at >= DATE '2026-02-03'".to_owned();
    let url = |text: &str| text.to_owned();
    assert_eq!(resolved(&[since], &[]), Ok((filter.clone(), url("postgres://from-env-file@localhost/emea"))));
    let told = resolved(&[since, ("region", "apac")], &[("SHOP_USER", "me")]);
    assert_eq!(told, Ok((filter, url("postgres://me@localhost/apac"))));
}

#[test]
fn what_a_run_is_not_given_rightly_is_told_at_once() {
    let told = resolved(&[("region", "moon"), ("sicne", "x")], &[]).expect_err("three problems");
    assert_eq!(
        told,
        [
            "unknown-param: `--param sicne=…` is given, and there is no param `sicne`",
            "missing-param: the param `since` has no value (The first day)",
            "param-value: the param `region` cannot be `moon`",
        ]
    );
    let told = resolved(&[("since", "today")], &[]).expect_err("a wrong date");
    assert_eq!(told, ["param-value: the value of the param `since` does not fit its type: `today` is not a date such as `2026-01-31`"]);
}

#[test]
fn a_variable_that_is_not_set_is_told_where_it_is_named() {
    let folder = Folder::new();
    folder.file("haul.yaml", "connections:\n  shop: { url: \"postgres://{{ env.HAUL_TEST_NOT_SET }}@localhost/x\" }\n");
    folder.file("pipelines/a.yaml", "stages:\n  a:\n    kind: batch\n    from: { sql: shop, table: t }\n    to: { discard: x }\n");
    folder.haul(&["validate"]).expect(0);
    let project = Project::find(&folder.path("pipelines")).expect("the project");
    let path = project.pipeline_path("a").expect("the pipeline");
    let source = source(path, "a.yaml".to_owned()).expect("its text");
    let none = |_: &str| None;
    let found = resolve("a", &source, &project, &Given { params: Default::default(), env: &none, run: None }).expect_err("no variable");
    assert_eq!(found[0].code, "template-undefined");
    assert!(found[0].labels[0].source.path.ends_with("haul.yaml"), "{found:?}");
    folder.file(".env", "HAUL_TEST_NOT_SET=me\n");
    let project = Project::find(&folder.path("pipelines")).expect("the project");
    resolve("a", &source, &project, &Given { params: Default::default(), env: &none, run: None }).expect("the variable of .env");
    let failure = project.pipeline_path("aa").expect_err("no such pipeline");
    assert_eq!(failure.help.as_deref(), Some("the pipelines are `a`"));
}
