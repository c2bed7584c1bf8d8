//! Refuses requests for private paths, and marks those that pass.

use serde::Deserialize;
use weir_sdk::message::prelude::*;

/// `[function.config]` of the chain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Beginnings of paths that are refused.
    private: Vec<String>,
}

struct PathGuard {
    private: Vec<String>,
    refused: Counter,
}

/// Whether servers may read a path as another one: it is as the client wrote it, and to many
/// `/%61`, `//a` and `/./a` are `/a`.
fn is_unclear(path: &[u8]) -> bool {
    path.iter().any(|byte| b"%\\;".contains(byte))
        || path.windows(2).any(|two| two == b"//" || two == b"/.")
}

impl MessageFunction for PathGuard {
    type Config = Config;
    type State = ();

    fn configure(_: Setup, config: Config) -> Result<Self, String> {
        if let Some(wrong) = config.private.iter().find(|path| !path.starts_with('/')) {
            return Err(format!(
                "private: \"{wrong}\" is no path: it must begin with /"
            ));
        }
        Ok(Self {
            private: config.private,
            refused: host::counter("refused"),
        })
    }

    fn wants(&self) -> Wants {
        Wants::REQUEST_HEAD
    }

    fn request_head(&mut self, exchange: &mut Exchange<'_, ()>, head: &mut Head<'_>) -> Outcome {
        let (path, _) = head.path_and_query();
        let mut private = self.private.iter();
        if is_unclear(path) || private.any(|private| path.starts_with(private.as_bytes())) {
            self.refused.add(1);
            return exchange.answer(&Response::new(403).text("This is private.\n"));
        }
        match head.set("x-guard", b"passed") {
            Ok(()) => Outcome::Continue,
            Err(full) => exchange.fail(&full),
        }
    }
}

weir_sdk::export_message!(PathGuard);

#[cfg(test)]
mod tests {
    use weir_sdk::testing::{Message, MessageHarness};

    use super::*;

    #[test]
    fn a_private_path_is_refused() {
        let mut harness = MessageHarness::<PathGuard>::new(r#"{"private": ["/admin"]}"#).unwrap();
        for path in ["/admin/1", "/%61dmin/1", "//admin/1", "/./admin/1"] {
            let answer = harness.exchange(&Message::get(path), |_| Message::response(200));
            assert_eq!(answer.status, 403);
        }
    }
}
