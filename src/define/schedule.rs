//! Reads `schedule:`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use croner::parser::{CronParser, Year};
use jiff::civil::date;
use jiff::tz::TimeZone;

use super::graph::items;
use super::params::{typed, word};
use super::pipeline::{CatchUp, Cron, Entry, Overlap, Param, Schedule, When, length_text};
use super::reader::Reader;
use crate::diagnostic::Diagnostic;
use crate::diagnostic::suggest::{did_you_mean, known_names, list};
use crate::load::document::child;
use crate::load::file::{self, CatchUpMode};
use crate::load::shape::{self, OneOrMany};

/// How old a tick may be that is made up for, when a catch-up does not say.
const WINDOW: Duration = Duration::from_secs(86_400);
/// How many ticks are made up for at once, when a catch-up of all does not say.
const MOST: usize = 100;
/// The shortest time between two ticks.
const LEAST: Duration = Duration::from_secs(1);

/// Reads `schedule:` of the pipeline of this name; params have been read.
pub fn read(reader: &mut Reader<'_>, name: &str, said: Option<&OneOrMany<file::Schedule>>) -> Option<Schedule> {
    let said = items(said, "/schedule");
    if said.is_empty() {
        return None;
    }
    let mut schedule = Schedule {
        entries: Vec::new(),
        overlap: once(reader, &said, "overlap", |entry| entry.overlap).map_or(Overlap::Skip, overlap),
        pause_on_failure: once(reader, &said, "pause_on_failure", |entry| entry.pause_on_failure),
    };
    let mut keys = BTreeSet::new();
    for (at, said) in &said {
        let Some(entry) = entry(reader, name, at, said) else { continue };
        if keys.insert(entry.key.clone()) {
            schedule.entries.push(entry);
        } else {
            reader.warn_at_key("duplicate-name", at, "two schedules say the same", "remove one of the two");
        }
    }
    Some(schedule)
}

/// The cron pattern of a text in a time zone.
pub fn cron(text: &str, zone: TimeZone) -> Result<Cron, String> {
    let parser = CronParser::builder().year(Year::Disallowed).build();
    let pattern = parser.parse(text).map_err(|error| plain(text, &error.to_string()))?;
    Ok(Cron { text: text.trim().to_owned(), pattern, zone })
}

/// What is wrong with a cron pattern, without the library's own names in it.
fn plain(text: &str, said: &str) -> String {
    let fields = text.split_whitespace().count();
    if text.trim_start().starts_with('@') {
        return "an unknown nickname".to_owned();
    }
    if !(5..=6).contains(&fields) {
        return format!("it has {fields} fields, and 5 or 6 are needed");
    }
    // The library's words for a strange character quote what it has made of the text by then.
    if said.contains("illegal") {
        return "it holds a name or a sign that cron does not know; names have three letters".to_owned();
    }
    let said = said.rsplit_once("error: ").map_or(said, |(_, rest)| rest).trim_end_matches('.');
    let mut letters = said.chars();
    letters.next().map(|first| format!("{}{}", first.to_lowercase(), letters.as_str())).unwrap_or_default()
}

fn overlap(said: file::Overlap) -> Overlap {
    match said {
        file::Overlap::Skip => Overlap::Skip,
        file::Overlap::Queue => Overlap::Queue,
        file::Overlap::CancelRunning => Overlap::CancelRunning,
        file::Overlap::Allow => Overlap::Allow,
    }
}

/// What one of the entries says for the whole pipeline; two that say it differently are a problem.
fn once<T: Copy + PartialEq>(
    reader: &mut Reader<'_>,
    said: &[(String, &file::Schedule)],
    key: &str,
    get: impl Fn(&file::Schedule) -> Option<T>,
) -> Option<T> {
    let mut found: Option<(T, &str)> = None;
    for (at, entry) in said {
        match (found, get(entry)) {
            (None, Some(value)) => found = Some((value, at)),
            (Some((first, first_at)), Some(value)) if value != first => {
                let problem = Diagnostic::error("schedule-conflict", format!("two schedules say `{key}` differently"));
                let problem = reader.document.at_value(problem, &format!("{at}/{key}"), "the second");
                let problem = reader.document.at_value(problem, &format!("{first_at}/{key}"), "the first");
                reader.problems.push(problem.help(format!("`{key}` holds for the whole pipeline: say it once")));
                return found.map(|(value, _)| value);
            }
            _ => {}
        }
    }
    found.map(|(value, _)| value)
}

fn entry(reader: &mut Reader<'_>, name: &str, at: &str, said: &file::Schedule) -> Option<Entry> {
    let params = params(reader, at, said);
    let when = when(reader, name, at, said)?;
    let jitter = said.jitter.as_ref().and_then(shape::Duration::read).unwrap_or_default();
    if let When::Every(length) = &when
        && jitter >= *length
    {
        let message = "the jitter is as long as the time from one tick to the next";
        reader.error("out-of-range", &format!("{at}/jitter"), message, format!("write less than {}", length_text(*length)));
    }
    let key = match &when {
        When::Cron(cron) => {
            let fields: Vec<&str> = cron.text.split_whitespace().collect();
            format!("cron {} {}", fields.join(" "), cron.zone.iana_name().unwrap_or("UTC"))
        }
        other => other.label(),
    };
    let key = params.iter().fold(key, |key, (name, value)| format!("{key} {name}={value}"));
    Some(Entry { key, when, jitter, catch_up: catch_up(said.catch_up.as_ref()), params, at: at.to_owned() })
}

fn when(reader: &mut Reader<'_>, name: &str, at: &str, said: &file::Schedule) -> Option<When> {
    let keys = ["cron", "every", "after"];
    // What the schema has taken out was said all the same.
    let named: Vec<&str> = keys.into_iter().filter(|key| reader.document.get(&child(at, key)).is_some()).collect();
    match named.as_slice() {
        [_] => {}
        [] => {
            let message = "the schedule does not say when";
            reader.error_at_key(
                "schedule-when",
                at,
                message,
                "give it `cron: \"0 2 * * *\"`, `every: 15m` or `after: { pipeline: other }`",
            );
            return None;
        }
        [first, second, ..] => {
            let problem = Diagnostic::error("schedule-when", format!("`{first}` and `{second}` both say when; one of them can"));
            let problem = reader.document.at_key(problem, &child(at, second), "the second");
            let problem = reader.document.at_key(problem, &child(at, first), "the first");
            reader.problems.push(problem.help("write a list with one schedule for each"));
            return None;
        }
    }
    let unused: &[&str] = match named[0] {
        "cron" => &[],
        "every" => &["timezone"],
        _ => &["timezone", "catch_up"],
    };
    for key in unused {
        if reader.document.get(&child(at, key)).is_some() {
            let message = format!("`{key}` has no meaning beside `{}`", named[0]);
            reader.warn_at_key("schedule-unused", &child(at, key), message, "remove it");
        }
    }
    if let Some(text) = &said.cron {
        return read_cron(reader, at, text, said.timezone.as_deref()).map(|cron| When::Cron(Box::new(cron)));
    }
    if let Some(every) = said.every.as_ref().and_then(shape::Duration::read) {
        if every < LEAST {
            reader.error("out-of-range", &child(at, "every"), "the time between two ticks is too short", "the least is 1s");
            return None;
        }
        return Some(When::Every(every));
    }
    let pipeline = said.after.as_ref()?.pipeline.clone()?;
    if pipeline == name {
        let message = "the pipeline would run after itself, and so without end";
        reader.error("schedule-circle", &format!("{at}/after/pipeline"), message, "name another pipeline, or use `every`");
        return None;
    }
    Some(When::After(pipeline))
}

fn read_cron(reader: &mut Reader<'_>, at: &str, text: &str, timezone: Option<&str>) -> Option<Cron> {
    let zone = match timezone {
        None => Some(TimeZone::UTC),
        Some(name) => read_zone(reader, &child(at, "timezone"), name),
    };
    let at = child(at, "cron");
    let cron = match cron(text, zone.clone().unwrap_or(TimeZone::UTC)) {
        Ok(cron) => cron,
        Err(reason) => {
            let help = "write 5 fields: minute, hour, day of the month, month, weekday, such as `0 2 * * MON-FRI`; or 6, seconds first";
            reader.error("cron", &at, format!("`{text}` is no cron pattern: {reason}"), help);
            return None;
        }
    };
    // Any leap year will do: what does not come within the library's bound of years after it does not come at all.
    if cron.pattern.find_next_occurrence(&date(2024, 1, 1).at(0, 0, 0, 0), true).is_err() {
        reader.error("cron-never", &at, format!("the time `{text}` never comes"), "name a day that its month has");
        return None;
    }
    zone.is_some().then_some(cron)
}

fn read_zone(reader: &mut Reader<'_>, at: &str, name: &str) -> Option<TimeZone> {
    // Only names of the database: `EST5EDT` is one, `+02:00` and a file of the machine are none.
    let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    if known.iter().any(|known| known == name)
        && let Ok(zone) = TimeZone::get(name)
    {
        return Some(zone);
    }
    let help = match did_you_mean(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "use a name of the IANA database, such as `Europe/Berlin` or `UTC`".to_owned(),
    };
    reader.error("timezone", at, format!("there is no time zone `{name}`"), help);
    None
}

fn catch_up(said: Option<&file::CatchUp>) -> CatchUp {
    let window = said.and_then(|said| said.window.as_ref()).and_then(shape::Duration::read).unwrap_or(WINDOW);
    let most = said.map_or(0, |said| match said.mode {
        CatchUpMode::None => 0,
        CatchUpMode::Latest => 1,
        CatchUpMode::All => said.most.map_or(MOST, |most| most as usize),
    });
    CatchUp { most, window }
}

/// The params that a schedule gives, and whether its runs have all that they need.
fn params(reader: &mut Reader<'_>, at: &str, said: &file::Schedule) -> BTreeMap<String, String> {
    let declared = reader.params.clone();
    let at_params = child(at, "params");
    let mut given = BTreeMap::new();
    for (name, value) in said.params.iter().flat_map(|entries| &entries.0) {
        let at = child(&at_params, name);
        let text = value.0.as_str().or(reader.document.written(&at)).map_or_else(|| value.0.to_string(), str::to_owned);
        match declared.iter().find(|param| param.name == *name) {
            None if reader.broken(&child("/params", name)) => {}
            None => {
                let help = known_names(name, "params", declared.iter().map(|param| param.name.as_str()));
                let problem = Diagnostic::error("unknown-param", format!("there is no param `{name}`"));
                reader.problems.push(reader.document.at_key(problem, &at, "").help(help));
            }
            Some(param) => {
                if let Err((message, help)) = fits(param, &text) {
                    reader.error("param-value", &at, message, help);
                }
            }
        }
        given.insert(name.clone(), text);
    }
    for param in declared.iter().filter(|param| param.default.is_none() && !given.contains_key(&param.name)) {
        if !reader.broken(&at_params) {
            let problem = Diagnostic::error("missing-param", format!("the schedule gives no value to the param `{}`", param.name));
            let problem = reader.document.at_key(problem, at, "");
            let problem = reader.document.at_key(problem, &param.at, "it has no default");
            let help = format!("write `params: {{ {}: … }}` in the schedule, or give the param a `default`", param.name);
            reader.problems.push(problem.help(help));
        }
    }
    given
}

fn fits(param: &Param, text: &str) -> Result<(), (String, String)> {
    if let Err(reason) = typed(text, param.ty) {
        let message = format!("the value of the param `{}` does not fit its type: {reason}", param.name);
        return Err((message, format!("its type is `{}`", word(param.ty))));
    }
    if !param.allowed.is_empty() && !param.allowed.iter().any(|allowed| allowed == text) {
        let help = format!("the allowed values are {}", list(param.allowed.iter().map(String::as_str)));
        return Err((format!("the param `{}` cannot be `{text}`", param.name), help));
    }
    Ok(())
}
