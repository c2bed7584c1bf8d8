//! Generated from `wit/net.wit`.

wit_bindgen::generate!({
    path: "wit",
    world: "weir:net/packet-function",
    pub_export_macro: true,
    export_macro_name: "export_packet",
});

/// The exports that `packet-function-saving` has beside. Both worlds' descriptions lie in the
/// module, and become one component.
pub mod saving {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package weir:sdk;
            world snapshot { export weir:net/snapshot@0.1.0; }
        ",
        world: "weir:sdk/snapshot",
        pub_export_macro: true,
        export_macro_name: "export_snapshot",
    });
}

/// The export of `packet-function-copy`, in place of `packet`.
pub mod copying {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package weir:sdk;
            world copying { export weir:net/packet-copy@0.1.0; }
        ",
        world: "weir:sdk/copying",
        with: { "weir:net/types@0.1.0": crate::export::bindings::weir::net::types },
        pub_export_macro: true,
        export_macro_name: "export_packet_copy",
    });
}

/// What message functions import and export.
pub mod messages {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package weir:sdk;
            world messages { import weir:net/exchange@0.1.0; export weir:net/message@0.1.0; }
        ",
        world: "weir:sdk/messages",
        with: {
            "weir:net/types@0.1.0": crate::export::bindings::weir::net::types,
            "weir:net/exchange@0.1.0": generate,
        },
        pub_export_macro: true,
        export_macro_name: "export_messages",
    });
}

/// What connection functions export.
pub mod connections {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package weir:sdk;
            world connections { export weir:net/connection@0.1.0; }
        ",
        world: "weir:sdk/connections",
        with: { "weir:net/types@0.1.0": crate::export::bindings::weir::net::types },
        pub_export_macro: true,
        export_macro_name: "export_connections",
    });
}
