//! New names for keys: a template in which `key` is the old name.
//!
//! Keys are bytes. What is not UTF-8 in one, and what would be mistaken for it, is carried through the template as characters of a private
//! range, a byte each, and comes out as the bytes it was: filters change the text around it only.

use std::fmt;
use std::sync::{Arc, Mutex};

use minijinja::Environment;

use super::{Context, Problem, Target, Trace, Uses, environment, lock, names, problem, render_problem, syntax_problem, tags, words};

/// The name of the old key in a template.
const KEY: &str = "key";
/// The character that carries the byte 0; the others follow. A range of private use, in the middle of its plane.
const BYTES: u32 = 0xF_4200;

/// A template that makes a new key of an old one.
#[derive(Clone)]
pub struct Rename {
    text: String,
    context: Context,
    environment: Arc<Environment<'static>>,
    trace: Arc<Mutex<Trace>>,
}

impl Rename {
    /// Checks the template without any value, and tells what it reads besides the key.
    pub fn check(text: &str) -> Result<Uses, Problem> {
        let pieces = tags::pieces(text);
        words::check_words(text, Target::Text, &pieces)?;
        let environment = environment(Target::Text, &Arc::default());
        let template = environment.template_from_str(text).map_err(|error| syntax_problem(text, &error))?;
        let mut uses = Uses::default();
        let names = template.undeclared_variables(true);
        if !names.contains(KEY) {
            return Err(problem("template-name", "every key would get the same new name").help("use `key`, the old name, in the template"));
        }
        for name in names.into_iter().filter(|name| name != KEY) {
            let place = words::place_of(text, &pieces, &name);
            words::note_use(&mut uses, Target::Text, &[KEY], &name, place)?;
        }
        Ok(uses)
    }

    /// A template with everything but the key known, tried with a key that cannot be.
    pub fn new(text: &str, context: &Context) -> Result<Self, Problem> {
        Self::check(text)?;
        let trace = Arc::new(Mutex::new(Trace::default()));
        let mut environment = environment(Target::Text, &trace);
        environment.add_template_owned(KEY, text.to_owned()).map_err(|error| syntax_problem(text, &error))?;
        let made = Self { text: text.to_owned(), context: context.clone(), environment: Arc::new(environment), trace };
        made.render("\u{0}")?;
        Ok(made)
    }

    /// The template as it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The new name of a key.
    pub fn apply(&self, key: &[u8]) -> Result<Vec<u8>, Problem> {
        Ok(from_text(&self.render(&to_text(key))?))
    }

    fn render(&self, key: &str) -> Result<String, Problem> {
        let template = self.environment.get_template(KEY).map_err(|error| syntax_problem(&self.text, &error))?;
        let names = names::namespaces(&self.context, &self.trace);
        let rendered = template.render(minijinja::context! { key => key, ..names });
        rendered.map_err(|error| render_problem(&self.text, &error, &lock(&self.trace), 0))
    }
}

/// What it makes of a key that cannot be: two templates that render alike are the same, whatever params they take.
impl fmt::Debug for Rename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rename({:?}, {:?})", self.text, self.render("\u{0}").unwrap_or_default())
    }
}

fn private(c: char) -> Option<u8> {
    u32::from(c).checked_sub(BYTES).and_then(|byte| u8::try_from(byte).ok())
}

fn to_text(key: &[u8]) -> String {
    let carry = |byte: &u8| char::from_u32(BYTES + u32::from(*byte)).unwrap_or(char::REPLACEMENT_CHARACTER);
    let mut text = String::with_capacity(key.len());
    for chunk in key.utf8_chunks() {
        for c in chunk.valid().chars() {
            match private(c) {
                None => text.push(c),
                Some(_) => text.extend(c.encode_utf8(&mut [0; 4]).as_bytes().iter().map(carry)),
            }
        }
        text.extend(chunk.invalid().iter().map(carry));
    }
    text
}

fn from_text(text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(text.len());
    for c in text.chars() {
        match private(c) {
            Some(byte) => key.push(byte),
            None => key.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    fn rename(text: &str, key: &[u8]) -> Result<Vec<u8>, String> {
        let context = Context {
            params: BTreeMap::new(),
            env: Arc::new(|_| Some("x".to_owned())),
            base: PathBuf::new(),
            run: None,
            event: None,
            pipeline: "p".to_owned(),
        };
        Rename::new(text, &context).and_then(|rename| rename.apply(key)).map_err(|problem| problem.message)
    }

    #[test]
    fn keys_get_new_names_and_keep_their_bytes() {
        let user = "{{ key | replace('user:', 'u:') }}";
        assert_eq!(rename(user, b"user:1").as_deref(), Ok(&b"u:1"[..]));
        assert_eq!(rename(user, b"user:\xff\x00\xc3").as_deref(), Ok(&b"u:\xff\x00\xc3"[..]));
        let private = "user:\u{F4241}é".as_bytes();
        assert_eq!(rename(user, private).as_deref(), Ok("u:\u{F4241}é".as_bytes()));
        assert_eq!(rename("{{ env.P }}:{{ key }}", b"").as_deref(), Ok(&b"x:"[..]));
        assert_eq!(rename("{{ pipeline.name }}/{{ key | upper }}", "é\u{1F600}".as_bytes()).as_deref(), Ok("p/É\u{1F600}".as_bytes()));
        for (wrong, said) in
            [("same", "same new name"), ("{{ env.P }}", "same new name"), ("{{ kee }}{{ key }}", "`kee`"), ("{{ key", "parse")]
        {
            let message = rename(wrong, b"a").expect_err(wrong);
            assert!(message.contains(said), "{wrong}: {message}");
        }
    }
}
