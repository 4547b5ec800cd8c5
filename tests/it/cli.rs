//! The command line itself: exit codes, where things are said, and what stands outside of a project.

use crate::support::Project;

#[test]
fn help_and_version_are_no_errors() {
    let project = Project::new();
    let said = project.haul(&["--version"]).expect(0);
    assert_eq!(said.stdout, format!("haul {}\n", env!("CARGO_PKG_VERSION")));
    assert!(project.haul(&["--help"]).expect(0).stdout.contains("Usage: haul"));
}

#[test]
fn a_wrong_command_line_is_exit_2_on_standard_error() {
    let project = Project::new();
    for arguments in [&["rnu"][..], &[][..], &["runs", "--limit", "many"], &["show", "-q", "-v"]] {
        let said = project.haul(arguments).expect(2);
        assert!(said.stdout.is_empty() && !said.stderr.is_empty(), "{said:?}");
    }
}

#[test]
fn outside_of_a_project_the_way_in_is_named() {
    let project = Project::new();
    let said = project.haul(&["runs"]).expect(3);
    assert!(said.stderr.starts_with("error: no project here: ") && said.stderr.contains("\nhelp: `haul init` makes one"), "{said:?}");
    let said = project.haul(&["runs", "--project", "elsewhere", "--json"]).expect(3);
    let error: serde_json::Value = serde_json::from_str(&said.stderr).expect("one JSON document");
    assert_eq!(
        (error["exit_code"].as_i64(), error["error"].as_str().is_some_and(|text| text.starts_with("elsewhere is no project"))),
        (Some(3), true)
    );
    assert!(!project.path(".haul").exists(), "nothing is created outside of a project");
}

#[test]
fn a_project_is_found_from_the_folders_below_it() {
    let project = Project::new();
    project.file("pipelines/deep/er/readme", "");
    let said = project.command(&["runs"]).current_dir(project.path("pipelines/deep/er")).output().expect("haul can be started");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "no runs yet\n");
    assert!(project.path(".haul/state.db").is_file());
    assert_eq!(project.haul(&["runs", "--json"]).expect(0).stdout, "[]\n");
    let said = project.haul(&["show"]).expect(3);
    assert_eq!(said.stderr, "error: there are no runs yet\nhelp: `haul run NAME` makes one\n");
}

#[test]
fn every_shell_gets_its_completions() {
    let project = Project::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(project.haul(&["completions", shell]).expect(0).stdout.contains("haul"));
    }
}
