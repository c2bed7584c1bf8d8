//! What functions in the worker ask the gateway for outside of their chain: requests of their own,
//! and the store.

use std::rc::Rc;
use std::time::Duration;

use weir_exchange::{CallFault, CallResult, Pieces};
use weir_message::{head, sum};
use weir_sandbox::KEY_MAX;

use super::{CALLS_MAX, Inner, nowhere};
use crate::protocol as say;
use crate::protocol::{Message, PREFIX};
use crate::rings::{Breach, MESSAGE_MAX};

/// Longest value of the store that fits a message.
const VALUE_MAX: usize = 64 << 10;

impl Inner {
    pub(super) fn call(self: &Rc<Self>, message: Message, generation: u64) -> Result<(), Breach> {
        let made = {
            let mut live = self.live.borrow_mut();
            live.as_mut().and_then(|live| live.call.take())
        };
        let (pieces, bytes) = match made {
            Some((number, pieces, bytes)) if number == message.exchange => (pieces, bytes),
            Some(_) => return Err(Breach("it begins a call before it has made the last")),
            None => (Pieces::new(), 0),
        };
        let parts = head::new_request(&message.bytes);
        let parts = parts.map_err(|_| Breach("a call's head is broken"))?;
        let upstream = message.a as usize;
        if upstream >= self.upstreams.count() {
            return Err(Breach("it calls an upstream that there is not"));
        }
        let (calls, of_calls) = self.calls.get();
        if calls >= CALLS_MAX || of_calls + bytes > self.most {
            self.called(message.exchange, generation, Err(CallFault::Unreachable));
            return Ok(());
        }
        self.calls.set((calls + 1, of_calls + bytes));
        let most = usize::try_from(message.c).unwrap_or(usize::MAX).min(self.head.borrow().len());
        let timeout = Duration::from_millis(u64::from(message.b.max(1)));
        let request = http::Request::from_parts(parts, pieces);
        let called = self.environment.call(upstream, request, timeout, most);
        let inner = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let result = called.await;
            let (calls, of_calls) = inner.calls.get();
            inner.calls.set((calls - 1, of_calls - bytes));
            inner.called(message.exchange, generation, result);
        });
        Ok(())
    }

    fn called(&self, call: u32, generation: u64, result: CallResult) {
        let fault = |fault| Message {
            exchange: call,
            kind: say::CALLED,
            a: say::why(fault),
            ..Message::default()
        };
        let message = match result {
            Err(why) => fault(why),
            Ok(_) if self.is_behind() => fault(CallFault::Unreachable),
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let laid = self.lay_out(|room| {
                    head::lay_out_response(room, &parts, &nowhere(), Some(body.len() as u64), false)
                });
                match laid {
                    Some(laid) if PREFIX + laid.len() + body.len() <= MESSAGE_MAX => Message {
                        exchange: call,
                        kind: say::CALLED,
                        b: laid.len() as u32,
                        bytes: [laid, body].concat().into(),
                        ..Message::default()
                    },
                    _ => fault(CallFault::NotHttp),
                }
            }
        };
        self.reply(generation, message);
    }

    pub(super) fn stored(&self, message: &Message, generation: u64) -> Result<(), Breach> {
        let at = message.b as usize;
        let Some((key, value)) = message.bytes.split_at_checked(at) else {
            return Err(Breach("a key is longer than its message"));
        };
        // A worker holds its functions to this, and asks for nothing else.
        if key.len() > KEY_MAX || value.len() > self.head.borrow().len() {
            return Err(Breach("it asks the store for more than functions may"));
        }
        let lives = (message.c != 0).then(|| Duration::from_millis(message.c));
        let value = match message.a {
            say::STORE_SET => {
                self.store.set(key, value, lives);
                return Ok(());
            }
            say::STORE_ADD => {
                let delta = value.try_into().map(i64::from_le_bytes);
                let delta = delta.map_err(|_| Breach("it adds what is no number"))?;
                Some(sum(self.store.add(key, delta, lives)))
            }
            say::STORE_GET if self.is_behind() => None,
            say::STORE_GET => self.store.get(key).filter(|value| value.len() <= VALUE_MAX),
            _ => return Err(Breach("it asks the store for nothing that there is")),
        };
        let message = Message {
            exchange: message.exchange,
            kind: say::STORED,
            a: u32::from(value.is_some()),
            bytes: value.unwrap_or_default(),
            ..Message::default()
        };
        self.reply(generation, message);
        Ok(())
    }
}
