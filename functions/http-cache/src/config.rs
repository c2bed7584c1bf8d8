//! The configuration.

use serde::Deserialize;

/// `[function.config]` of `http-cache`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The cache's name in `cache-status`.
    pub(crate) name: String,
    /// Bytes of all stored responses.
    pub(crate) size: usize,
    /// Bytes of the largest body that is stored.
    pub(crate) max_body: usize,
    /// Of the time since a response was changed, so much is it taken for fresh without being told:
    /// percent.
    pub(crate) heuristic_percent: u64,
    /// And at most so long: seconds.
    pub(crate) heuristic_max: u64,
    /// Clients may ask for newer responses.
    pub(crate) client_control: bool,
    /// Responses that set cookies are stored, if they say how long.
    pub(crate) store_set_cookie: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "weir".into(),
            size: 32 << 20,
            max_body: 256 << 10,
            heuristic_percent: 10,
            heuristic_max: 86_400,
            client_control: true,
            store_set_cookie: false,
        }
    }
}

impl Config {
    /// # Errors
    /// What the operator is to read.
    pub(crate) fn check(&self) -> Result<(), String> {
        let token = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
        if !self.name.starts_with(|c: char| c.is_ascii_alphabetic())
            || self.name.len() > 64
            || !self.name.bytes().all(token)
        {
            return Err(format!(
                "name: \"{}\" is not letters, digits, `-`, `.` and `_`",
                self.name
            ));
        }
        if self.max_body > self.size {
            return Err(format!("max-body: {} is more than size, {}", self.max_body, self.size));
        }
        if self.heuristic_percent > 100 {
            return Err(format!("heuristic-percent: {} is more than 100", self.heuristic_percent));
        }
        Ok(())
    }
}
