//! Colours, or none.

/// Wraps words in terminal colours, when there is a terminal that wants them.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// Colours only when `on`.
    pub fn new(on: bool) -> Self {
        Self { on }
    }

    /// Whether there are colours.
    pub fn is_on(self) -> bool {
        self.on
    }

    /// What went wrong.
    pub fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// What went well.
    pub fn green(self, text: &str) -> String {
        self.wrap("1;32", text)
    }

    /// What to look at.
    pub fn yellow(self, text: &str) -> String {
        self.wrap("1;33", text)
    }

    /// The way out, and names.
    pub fn cyan(self, text: &str) -> String {
        self.wrap("1;36", text)
    }

    /// Headings.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What matters less.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
