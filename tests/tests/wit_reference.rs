//! `docs/reference/wit.md`: what `wit/*.wit` says, made for reading. `WEIR_BLESS=1` writes it anew.

use std::fmt::Write as _;
use std::fs;

use weir_tests::built::workspace;
use wit_parser::{
    Docs, Function, Handle, Interface, Resolve, Type, TypeDef, TypeDefKind, TypeOwner, World,
    WorldItem, WorldKey,
};

#[test]
fn the_reference_is_as_the_sources_are() {
    let page = page();
    let path = workspace().join("docs/reference/wit.md");
    if std::env::var_os("WEIR_BLESS").is_some() {
        fs::write(&path, &page).expect("the page is written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "{} is not what wit/ says: run WEIR_BLESS=1 cargo nextest run --release --workspace --test wit_reference",
        path.display()
    );
}

fn page() -> String {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(workspace().join("wit")).expect("the contract is right");
    let package = &resolve.packages[package];
    let mut page = format!(
        "# The contract, function by function\n\n\
         Package `{}`, as `wit/net.wit` and `wit/message.wit` have it. What lies where in memory is in\n\
         [`wit/window.md`](wit/window.md), [`wit/burst.md`](wit/burst.md) and [`wit/message.md`](wit/message.md).\n",
        package.name
    );
    page.push_str("\n## Worlds\n");
    for world in package.worlds.values() {
        add_world(&mut page, &resolve, &resolve.worlds[*world]);
    }
    for interface in package.interfaces.values() {
        add_interface(&mut page, &resolve, &resolve.interfaces[*interface]);
    }
    page
}

fn docs(docs: &Docs) -> String {
    docs.contents.as_deref().unwrap_or_default().trim().to_owned()
}

fn add_world(page: &mut String, resolve: &Resolve, world: &World) {
    let names = |items: &mut dyn Iterator<Item = (&WorldKey, &WorldItem)>| {
        let names = items.filter(|(_, item)| matches!(item, WorldItem::Interface { .. }));
        let names = names.map(|(key, _)| {
            let name = match key {
                WorldKey::Name(name) => name.clone(),
                WorldKey::Interface(id) => resolve.interfaces[*id].name.clone().unwrap_or_default(),
            };
            format!("[`{name}`](#interface-{name})")
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let imports = names(&mut world.imports.iter());
    let exports = names(&mut world.exports.iter());
    let (name, text) = (&world.name, docs(&world.docs));
    let _ =
        write!(page, "\n### World `{name}`\n\n{text}\n\nImports {imports}. Exports {exports}.\n");
}

fn add_interface(page: &mut String, resolve: &Resolve, interface: &Interface) {
    let name = interface.name.as_deref().unwrap_or_default();
    let _ = write!(page, "\n## Interface `{name}`\n\n{}\n", docs(&interface.docs));
    for (name, id) in &interface.types {
        add_type(page, resolve, name, &resolve.types[*id]);
    }
    for function in interface.functions.values() {
        add_function(page, resolve, function);
    }
}

fn add_function(page: &mut String, resolve: &Resolve, function: &Function) {
    let parameters =
        function.params.iter().map(|p| format!("{}: {}", p.name, text(resolve, &p.ty)));
    let parameters = parameters.collect::<Vec<_>>().join(", ");
    let result =
        function.result.as_ref().map(|of| format!(" -> {}", text(resolve, of))).unwrap_or_default();
    let (name, about) = (&function.name, docs(&function.docs));
    let _ = write!(
        page,
        "\n### `{name}`\n\n```wit\n{name}: func({parameters}){result}\n```\n\n{about}\n"
    );
}

fn add_type(page: &mut String, resolve: &Resolve, name: &str, of: &TypeDef) {
    let mut rows: Vec<(String, String, String)> = Vec::new();
    let mut add = |name: &str, of: Option<String>, about: &Docs| {
        rows.push((name.to_owned(), of.unwrap_or_default(), docs(about).replace('\n', " ")));
    };
    match &of.kind {
        TypeDefKind::Record(record) => {
            record.fields.iter().for_each(|f| add(&f.name, Some(text(resolve, &f.ty)), &f.docs));
        }
        TypeDefKind::Enum(cases) => {
            cases.cases.iter().for_each(|case| add(&case.name, None, &case.docs));
        }
        TypeDefKind::Flags(flags) => {
            flags.flags.iter().for_each(|flag| add(&flag.name, None, &flag.docs));
        }
        TypeDefKind::Variant(variant) => variant.cases.iter().for_each(|case| {
            add(&case.name, case.ty.as_ref().map(|of| text(resolve, of)), &case.docs);
        }),
        // A name from another interface.
        TypeDefKind::Type(_) => return,
        _ => {}
    }
    let _ = write!(page, "\n### {} `{name}`\n\n{}\n", capital(of.kind.as_str()), docs(&of.docs));
    if rows.is_empty() {
        return;
    }
    if rows.iter().all(|(_, of, about)| of.is_empty() && about.is_empty()) {
        let names: Vec<_> = rows.iter().map(|(name, ..)| format!("`{name}`")).collect();
        let _ = write!(page, "\n{}\n", names.join(", "));
        return;
    }
    let typed = rows.iter().any(|(_, of, _)| !of.is_empty());
    page.push_str(if typed {
        "\n| name | type | what |\n| --- | --- | --- |\n"
    } else {
        "\n| name | what |\n| --- | --- |\n"
    });
    for (name, of, about) in rows {
        let of = if typed { format!(" `{of}` |") } else { String::new() };
        let _ = writeln!(page, "| `{name}` |{of} {about} |");
    }
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}

/// A type as WIT writes it.
fn text(resolve: &Resolve, of: &Type) -> String {
    let Type::Id(id) = of else { return plain(of).into() };
    let of = &resolve.types[*id];
    // A name that another interface gave it is the same name here.
    if let (Some(name), TypeOwner::Interface(_)) = (&of.name, of.owner) {
        return name.clone();
    }
    let optional = |of: &Option<Type>| of.as_ref().map(|of| text(resolve, of));
    match &of.kind {
        TypeDefKind::List(of) => format!("list<{}>", text(resolve, of)),
        TypeDefKind::Option(of) => format!("option<{}>", text(resolve, of)),
        TypeDefKind::Tuple(of) => {
            let types: Vec<_> = of.types.iter().map(|of| text(resolve, of)).collect();
            format!("tuple<{}>", types.join(", "))
        }
        TypeDefKind::Result(of) => match (optional(&of.ok), optional(&of.err)) {
            (None, None) => "result".into(),
            (Some(ok), None) => format!("result<{ok}>"),
            (ok, Some(err)) => format!("result<{}, {err}>", ok.unwrap_or_else(|| "_".into())),
        },
        TypeDefKind::Handle(Handle::Borrow(of)) => {
            format!("borrow<{}>", resolve.types[*of].name.as_deref().unwrap_or_default())
        }
        TypeDefKind::Handle(Handle::Own(of)) => resolve.types[*of].name.clone().unwrap_or_default(),
        other => other.as_str().into(),
    }
}

fn plain(of: &Type) -> &'static str {
    match of {
        Type::Bool => "bool",
        Type::U8 => "u8",
        Type::U16 => "u16",
        Type::U32 => "u32",
        Type::U64 => "u64",
        Type::S8 => "s8",
        Type::S16 => "s16",
        Type::S32 => "s32",
        Type::S64 => "s64",
        Type::F32 => "f32",
        Type::F64 => "f64",
        Type::Char => "char",
        Type::String => "string",
        Type::ErrorContext => "error-context",
        Type::Id(_) => "a type",
    }
}
