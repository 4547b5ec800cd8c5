//! The rules of the house that a compiler does not know, over every tracked file. Each rule is a function of one file's path and text, and
//! is shown below to find a planted fault.

use std::path::Path;
use std::process::Command;

/// Top-level modules from the highest rank to the lowest. A module may use those of lower ranks, and itself.
const RANKS: [&[&str]; 15] = [
    &["cli"],
    &["serve"],
    &["schedule"],
    &["run"],
    &["feeds"],
    &["plan"],
    &["cache"],
    &["connectors"],
    &["transform"],
    &["define"],
    &["load"],
    &["journal"],
    &["data"],
    &["tasks"],
    &["diagnostic", "failure", "dialect", "clock", "secret"],
];

/// The most lines of a file.
const MOST_LINES: usize = 400;

/// A rule's name, and what it finds in a file: the line's number and what is wrong with it.
type Rule = (&'static str, fn(&str, &str) -> Vec<(usize, String)>);

const RULES: [Rule; 7] = [
    ("imports point down the ranks", imports),
    ("files stay short", length),
    ("nothing is left to do, silenced or skipped", leftovers),
    ("only the renderer prints", prints),
    ("only load/yaml names the YAML crate", yaml),
    ("only clock reads time", time),
    ("nothing names the machine it was written on", machine),
];

#[test]
fn the_tree_keeps_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for path in tracked(root) {
        // What is not text holds no rule to break; what is listed and gone is about to be removed.
        let Ok(text) = std::fs::read_to_string(root.join(&path)) else { continue };
        for (name, rule) in RULES {
            found.extend(rule(&path, &text).into_iter().map(|(line, fault)| format!("{path}:{line}: {fault} (rule: {name})")));
        }
    }
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_module_has_a_rank_and_a_place_on_the_map() {
    let map = include_str!("../../src/lib.rs");
    let modules: Vec<&str> = map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut ranked = RANKS.concat();
    ranked.sort_unstable();
    assert_eq!(modules, ranked, "the modules of src/lib.rs, sorted, are those of RANKS");
    for module in modules {
        assert!(
            map.lines().any(|line| line.starts_with("//! - [`") && line.contains(&format!("[`{module}`]"))),
            "`{module}` is not on the map"
        );
    }
    assert!(map.contains("#![forbid(unsafe_code)]") && map.contains("#![warn(missing_docs)]"));
}

#[test]
fn each_rule_finds_its_fault() {
    check(imports, "src/data/mod.rs", "use crate::run::Run;", &[1]);
    check(imports, "src/plan/build.rs", "use crate::{\n    cli::Exit,\n    data::{Type, Schema},\n};", &[1]);
    check(imports, "src/data/mod.rs", "fn f() { crate::cli::main(); }\n/// See [`crate::cli`].\nuse crate::failure::Failure;", &[1]);
    check(imports, "src/clock.rs", "use crate::secret::Secret;", &[1]);
    check(imports, "src/cli/mod.rs", "use crate::{clock, run::progress};", &[]);
    check(length, "src/new.rs", &"\n".repeat(401), &[401]);
    check(length, "src/new.rs", &"\n".repeat(400), &[]);
    check(length, "docs/long.md", &"\n".repeat(2000), &[]);
    for fault in [concat!("// TO", "DO: later"), concat!("dbg", "!(x)"), concat!("#[all", "ow(dead_code)]"), concat!("#[ign", "ore]")] {
        check(leftovers, "src/a.rs", &format!("fn f() {{}}\n{fault}"), &[2]);
    }
    check(prints, "src/run/unit.rs", "println!(\"x\");\neprintln!(\"x\");\nstd::io::stdout();", &[1, 2, 3]);
    check(prints, "src/cli/render/mod.rs", "println!(\"x\");", &[]);
    check(yaml, "src/define/check.rs", concat!("use serde_", "saphyr::Spanned;"), &[1]);
    check(time, "src/run/retry.rs", "let now = Instant::now();\nlet t = jiff::Timestamp::now();", &[1, 2]);
    check(time, "src/clock.rs", "Instant::now()", &[]);
    check(machine, "README.md", concat!("see /ro", "ot/x\nsee /ho", "me/me"), &[1, 2]);
}

/// The lines in which a rule finds something.
#[track_caller]
fn check(rule: fn(&str, &str) -> Vec<(usize, String)>, path: &str, text: &str, expected: &[usize]) {
    let lines: Vec<usize> = rule(path, text).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, expected, "in {path}:\n{text}");
}

fn tracked(root: &Path) -> Vec<String> {
    let listed = Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root).output();
    let listed = listed.expect("git can be started");
    assert!(listed.status.success(), "git cannot list the tree: {}", String::from_utf8_lossy(&listed.stderr));
    let files: Vec<String> = String::from_utf8_lossy(&listed.stdout).split_terminator('\0').map(str::to_owned).collect();
    assert!(files.iter().any(|file| file == "src/lib.rs"), "git lists {files:?}");
    files
}

fn imports(path: &str, text: &str) -> Vec<(usize, String)> {
    let Some(module) = path.strip_prefix("src/").map(|rest| rest.split(['/', '.']).next().unwrap_or_default()) else { return Vec::new() };
    let Some(own) = rank(module) else { return Vec::new() };
    let mut found = Vec::new();
    for (line, rest) in places(text, "crate::") {
        for used in names(rest) {
            if used != module && rank(used).is_some_and(|used| used <= own) {
                found.push((line, format!("`{module}` uses `crate::{used}`, which is not below it")));
            }
        }
    }
    found
}

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|rank| rank.contains(&module))
}

/// Every place of a text in code: its line, and what follows it. Comment lines are not code.
fn places<'a>(text: &'a str, wanted: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.match_indices(wanted).filter_map(move |(at, _)| {
        let before = &text[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let in_comment = text[line_start..at].trim_start().starts_with("//");
        (!in_comment).then(|| (before.matches('\n').count() + 1, &text[at + wanted.len()..]))
    })
}

/// The modules named right after `crate::`: one, or those of a list in braces, without what they nest.
fn names(rest: &str) -> Vec<&str> {
    let Some(list) = rest.strip_prefix('{') else { return word(rest).into_iter().collect() };
    let (mut depth, mut found, mut expected) = (0, Vec::new(), true);
    for (at, c) in list.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            _ if expected && !c.is_whitespace() => {
                found.extend(word(&list[at..]));
                expected = false;
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

fn length(path: &str, text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().count();
    if path.ends_with(".rs") && lines > MOST_LINES { vec![(lines, format!("more than {MOST_LINES} lines"))] } else { Vec::new() }
}

fn leftovers(path: &str, text: &str) -> Vec<(usize, String)> {
    let refused = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("dbg", "!("),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[all", "ow("),
        concat!("#![all", "ow("),
        concat!("#[ign", "ore"),
    ];
    if path.ends_with(".rs") { words(text, &refused) } else { Vec::new() }
}

fn prints(path: &str, text: &str) -> Vec<(usize, String)> {
    let free = !path.starts_with("src/") || path.starts_with("src/cli/render/") || path == "src/main.rs";
    // `eprint!` holds `print!`, so that two words find all four macros.
    if free { Vec::new() } else { words(text, &["print!(", "println!(", "io::stdout()", "io::stderr()"]) }
}

fn yaml(path: &str, text: &str) -> Vec<(usize, String)> {
    let free = !path.starts_with("src/") || path == "src/load/yaml.rs" || path.starts_with("src/load/yaml/");
    if free { Vec::new() } else { words(text, &[concat!("serde_", "saphyr")]) }
}

fn time(path: &str, text: &str) -> Vec<(usize, String)> {
    let free = !path.starts_with("src/") || path == "src/clock.rs";
    if free { Vec::new() } else { words(text, &["Instant::now(", "SystemTime::now(", "Timestamp::now(", "Zoned::now("]) }
}

fn machine(path: &str, text: &str) -> Vec<(usize, String)> {
    let _ = path;
    words(text, &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")])
}

/// The lines that hold one of some texts, each once.
fn words(text: &str, refused: &[&str]) -> Vec<(usize, String)> {
    let found = |line: &str| refused.iter().find(|word| line.contains(**word)).map(|word| format!("holds `{word}`"));
    text.lines().enumerate().filter_map(|(number, line)| Some((number + 1, found(line)?))).collect()
}
