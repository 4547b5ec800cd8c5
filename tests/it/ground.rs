//! The ground that the other tests stand on, tested itself.

use crate::support::{Project, first_difference, golden, postgres};

#[test]
fn databases_are_apart() {
    let server = postgres();
    let (one, two) = (server.fresh_database(), server.fresh_database());
    server.sql(&one, "create table t (id int); insert into t values (1), (2)");
    assert_eq!(server.sql(&one, "select id from t order by id"), "1\n2");
    assert_eq!(server.sql(&two, "select to_regclass('t') is null"), "t");
    assert_eq!(server.sql(&one, "show wal_level"), "logical");
}

#[test]
fn the_binary_runs_in_a_project() {
    let project = Project::new();
    project.file("folder/file.txt", "text");
    assert_eq!(project.read("folder/file.txt"), "text");
    let said = project.haul(&["--version"]).expect(0);
    assert_eq!(said.stderr, "");
}

#[test]
fn a_difference_is_found_in_its_line() {
    assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
    assert_eq!(first_difference("a\nb", "a\nc").as_deref(), Some("differs in line 2: expected \"b\", found \"c\""));
    assert_eq!(first_difference("a", "a\n").as_deref(), Some("differs in line 2: expected the end, found \"\""));
    golden("it/support/golden.txt", "a golden file is compared byte by byte\n");
}
