//! Near names and lists of names, for the help of diagnostics.

/// The nearest of the known names, when it is near enough to be meant.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = written.to_lowercase();
    let scored =
        known.into_iter().filter(|name| *name != written).map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name));
    let (distance, name) = scored.min_by_key(|(distance, _)| *distance)?;
    let allowed = (lower.chars().count() / 3).max(1);
    // Two words without a letter in common are no slip of the finger, however short they are.
    let shares_a_letter = lower.chars().any(|letter| name.to_lowercase().contains(letter));
    (distance <= allowed && distance < name.chars().count() && shares_a_letter).then_some(name)
}

/// The nearest of the known names, as a help.
pub fn near<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    did_you_mean(written, known).map(|name| format!("did you mean `{name}`?"))
}

/// `a`, `b` and `c`.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    joined(&quoted)
}

/// `a, b and c`.
pub fn joined(words: &[String]) -> String {
    match words {
        [] => "none".to_owned(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// The way out for a name that is not known: the near one, else all of them.
pub fn known_names<'a>(written: &str, what: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match near(written, known.iter().copied()) {
        Some(near) => near,
        None if known.is_empty() => format!("there are no {what} yet"),
        None => format!("the {what} are {}", list(known)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        assert_eq!(did_you_mean("filtr", ["select", "filter", "drop"]), Some("filter"));
        assert_eq!(did_you_mean("Mode", ["mode", "key"]), Some("mode"));
        assert_eq!(did_you_mean("sq", ["sql", "files"]), Some("sql"));
        assert_eq!(did_you_mean("path", ["sql", "table", "columns"]), None);
        assert_eq!(did_you_mean("xy", ["ab"]), None);
        assert_eq!(list(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
