//! Does what a request's path says, and marks what it has seen with its name.

use std::time::Duration;

use serde::Deserialize;
use weir_sdk::message::prelude::*;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What it is called in the fields that it adds.
    name: String,
    /// It does only what paths with this prefix say; the others it marks.
    #[serde(default)]
    mine: String,
    /// It does not want to hear of the end of exchanges; the SDK does, for what it remembers.
    #[serde(default)]
    endless: bool,
}

/// The function.
#[derive(Debug)]
pub struct Probe {
    config: Config,
    ended: Counter,
}

/// What it remembers of an exchange.
#[derive(Debug, Default)]
pub struct Seen {
    path: String,
    token: Option<Token>,
    held: Vec<u8>,
}

impl Probe {
    fn mark(&self, head: &mut Head<'_>) -> Outcome {
        match head.add("x-seen-by", self.config.name.as_bytes()) {
            Ok(()) => Outcome::Continue,
            Err(_) => Outcome::Reset,
        }
    }

    fn wait(seen: &mut Seen, token: Result<Token, host::Refusal>) -> Outcome {
        match token {
            Ok(token) => {
                seen.token = Some(token);
                Outcome::Wait
            }
            Err(_) => Outcome::Reset,
        }
    }
}

impl MessageFunction for Probe {
    type Config = Config;
    type State = Seen;

    fn configure(_: Setup, config: Config) -> Result<Self, String> {
        if config.name == "refuse" {
            return Err("it is not to be called \"refuse\"".into());
        }
        Ok(Self { config, ended: host::counter("ended") })
    }

    fn wants(&self) -> Wants {
        let wants = Wants::REQUEST_HEAD
            .and(Wants::REQUEST_BODY)
            .and(Wants::RESPONSE_HEAD)
            .and(Wants::RESPONSE_BODY);
        if self.config.endless { wants } else { wants.and(Wants::ENDED) }
    }

    fn request_head(&mut self, exchange: &mut Exchange<'_, Seen>, head: &mut Head<'_>) -> Outcome {
        let path = String::from_utf8_lossy(head.path()).into_owned();
        let mine = path.strip_prefix(&self.config.mine).map(str::to_owned);
        exchange.state.path = mine.clone().unwrap_or_default();
        match mine.as_deref().unwrap_or_default() {
            "/answer" => {
                let body = vec![b'x'; 40_000];
                exchange.answer(
                    &Response::new(418).field("x-made-by", self.config.name.as_str()).body(body),
                )
            }
            "/refused" => exchange.answer(&Response::new(42)),
            "/reset" => Outcome::Reset,
            "/done" => Outcome::Done,
            "/route" => {
                let _ = exchange.route(1);
                self.mark(head)
            }
            "/sleep" => {
                let token = exchange.sleep(Duration::from_millis(5));
                Self::wait(exchange.state, token)
            }
            "/store" => {
                let token = exchange.store_add(b"requests", 1, Duration::ZERO);
                Self::wait(exchange.state, token)
            }
            "/call" => {
                let request = Request::new("GET", "auth.example", "/called?1").body(&b"a body"[..]);
                let token = exchange.call(0, &request, Duration::from_secs(1));
                Self::wait(exchange.state, token)
            }
            "/wait" => Outcome::Wait,
            "/trap" => panic!("it was asked to"),
            #[expect(clippy::empty_loop, reason = "spinning is what is wanted")]
            "/spin" => loop {},
            "/bad-name" => match head.add("Bad Name", b"x") {
                Ok(()) => Outcome::Continue,
                Err(_) => Outcome::Reset,
            },
            _ => self.mark(head),
        }
    }

    fn request_body(
        &mut self,
        exchange: &mut Exchange<'_, Seen>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        match exchange.state.path.as_str() {
            "/hold" => {
                exchange.state.held.extend_from_slice(piece.bytes());
                if !piece.is_last() {
                    return Outcome::Hold;
                }
                if exchange.state.held.windows(3).any(|bytes| bytes == b"bad") {
                    return exchange.answer(&Response::new(403).text("no"));
                }
                Outcome::Continue
            }
            "/upper" => {
                piece.bytes_mut().make_ascii_uppercase();
                Outcome::Continue
            }
            "/twice" => {
                let twice = [piece.bytes(), piece.bytes()].concat();
                match piece.replace(&twice) {
                    Ok(()) => Outcome::Continue,
                    Err(_) => Outcome::Reset,
                }
            }
            "/swallow" => {
                piece.leave_out();
                Outcome::Continue
            }
            "/trap-in-body" => panic!("it was asked to"),
            _ => Outcome::Continue,
        }
    }

    fn response_head(&mut self, exchange: &mut Exchange<'_, Seen>, head: &mut Head<'_>) -> Outcome {
        if exchange.state.path == "/hide" {
            return exchange
                .answer(&Response::new(404).field("x-hidden-by", self.config.name.as_str()));
        }
        #[expect(clippy::empty_loop, reason = "spinning is what is wanted")]
        if exchange.state.path == "/late-spin" {
            loop {}
        }
        self.mark(head)
    }

    fn response_body(
        &mut self,
        exchange: &mut Exchange<'_, Seen>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        if exchange.state.path == "/upper" {
            piece.bytes_mut().make_ascii_uppercase();
        }
        Outcome::Continue
    }

    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, Seen>,
        resumed: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome {
        if exchange.state.token != Some(resumed.token()) {
            return Outcome::Reset;
        }
        let Pending::RequestHead(head) = pending else { return Outcome::Reset };
        let value = match (resumed.failure(), resumed.status()) {
            (Some(failure), _) => format!("{failure:?}"),
            (None, Some(status)) => format!("{status} {}", String::from_utf8_lossy(resumed.body())),
            (None, None) => format!("{:?}", resumed.body()),
        };
        match head.set("x-resumed", value.as_bytes()) {
            Ok(()) => Outcome::Continue,
            Err(_) => Outcome::Reset,
        }
    }

    fn ended(&mut self, _: &mut Exchange<'_, Seen>, _: End) {
        self.ended.add(1);
    }
}

weir_sdk::export_message!(Probe);
