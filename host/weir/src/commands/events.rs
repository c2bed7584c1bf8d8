//! `weir events`

use anyhow::{Context as _, Result};
use weir_control::Event;

use super::or_dash;
use crate::cli::{EventsArgs, Format};
use crate::client::Client;
use crate::render::{self, Output};

/// Writes events as they come, one a line.
pub(super) fn run(args: &EventsArgs, client: &Client, output: Output) -> Result<()> {
    let query = [("after", args.after.to_string()), ("follow", args.follow.to_string())];
    client.follow(&["events"], &query, |data| match output.format {
        Format::Json => render::print(format!("{data}\n").as_bytes()),
        Format::Table => {
            let event: Event = serde_json::from_str(data)
                .context("an event is not as expected: is the host's version of Weir another?")?;
            let Event { id, time, kind, tenant, message, .. } = event;
            let tenant = or_dash(tenant.as_ref());
            let line = format!("{id:<5} {time}  {:<14} {tenant:<10} {message}\n", kind.name());
            render::print(render::plain(&line).as_bytes())
        }
    })?;
    if !args.follow {
        return Ok(());
    }
    // Whoever waits for events must not take it for the end of them.
    let why = client.why_ended("it stops, or the token stands for something else now");
    anyhow::bail!("the host has ended the stream: {why}")
}
