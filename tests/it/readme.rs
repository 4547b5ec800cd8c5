//! What README.md says can be done, done: every command in it, its pipeline, its verbs, its links.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::examples;
use crate::support::Project;

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md")
}

/// The contents of the blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    text.split(&opening).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_command_runs() {
    let project = examples::project();
    let commands: Vec<String> = blocks(&readme(), "sh").concat().lines().map(str::to_owned).collect();
    assert!(!commands.is_empty(), "the README begins with commands");
    for command in commands {
        if let Some(arguments) = command.strip_prefix("cargo run -- ") {
            project.haul(&arguments.split_whitespace().collect::<Vec<_>>()).expect(0);
        } else if command == "tests/run" {
            // It runs this test.
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(&command);
            let mode = std::fs::metadata(&script).unwrap_or_else(|error| panic!("{command}: {error}")).permissions().mode();
            assert_eq!(mode & 0o111, 0o111, "{command} can be run");
        } else {
            panic!("this test does not know how to run `{command}`");
        }
    }
}

#[test]
fn every_pipeline_validates() {
    let project = Project::new();
    let pipelines = blocks(&readme(), "yaml");
    assert!(!pipelines.is_empty(), "the README shows a pipeline");
    for (place, text) in pipelines.iter().enumerate() {
        project.file(&format!("pipelines/readme_{place}.yaml"), text);
    }
    project.haul(&["validate"]).expect(0);
}

#[test]
fn every_verb_is_there_and_every_link_leads_somewhere() {
    let (text, project) = (readme(), Project::new());
    let said: Vec<&str> = text.match_indices("`haul ").filter_map(|(at, word)| text[at + word.len()..].split([' ', '`']).next()).collect();
    for verb in &said {
        project.haul(&[verb, "--help"]).expect(0);
    }
    let help = project.haul(&["--help"]).expect(0).stdout;
    let verbs = help.split("Commands:").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the list of verbs");
    for verb in verbs.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|verb| !verb.is_empty()) {
        assert!(said.contains(&verb), "the README does not name `haul {verb}`");
    }
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://")) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(link).exists(), "{link}");
    }
}
