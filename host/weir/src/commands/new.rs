//! `weir new`

use anyhow::Result;
use weir_author::project::{self, NoTemplate, Project};
use weir_spec::Plane;

use crate::cli::{NewArgs, PlaneArg};
use crate::client::WrongUsage;
use crate::render::{self, Output};

/// Writes a project, and says what to do next.
pub(super) fn run(args: &NewArgs, output: Output) -> Result<()> {
    let plane = match args.plane {
        PlaneArg::Packet => Plane::Packet,
        PlaneArg::Message => Plane::Message,
    };
    if args.lang == "list" {
        return output.result(&project::languages(), |languages| {
            let rows = languages
                .iter()
                .map(|(language, planes)| [(*language).to_owned(), planes.join(", ")]);
            render::table(["language", "planes"], rows)
        });
    }
    let Some(directory) = args.directory.as_deref() else {
        let message = format!("what is it called? weir new NAME --lang {}", args.lang);
        return Err(WrongUsage(message).into());
    };
    let project = project::write(directory, &args.lang, plane).map_err(|error| match error
        .downcast::<NoTemplate>(
    ) {
        Ok(error) => WrongUsage(error.to_string()).into(),
        Err(error) => error,
    })?;
    output.outcome(&project, text)
}

fn text(project: &Project) -> String {
    let what = match project.plane {
        Plane::Packet => "packets",
        Plane::Message => "messages",
        Plane::Both => "packets and messages",
    };
    let Project { directory, language, .. } = project;
    let directory = directory.display();
    format!(
        "{directory}: a function for {what} in {language}; its README.md says what is what\n\n\
         \x20 cd {directory}\n\
         \x20 ./build\n\
         \x20 weir test\n\
         \x20 weir function push --watch .    # into a host: built, pushed and swapped whenever you save\n"
    )
}
