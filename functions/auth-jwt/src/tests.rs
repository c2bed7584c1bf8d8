use std::cell::Cell;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::Signer;
use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use serde_json::json;
use sha2::Sha256;
use weir_sdk::config::HOP_FIELDS;
use weir_sdk::testing::{Message, MessageHarness};

use super::*;

/// RFC 7515, appendix A.1.
const HS256_KEY: &str =
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const HS256: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// A.2.
const RS256_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
/// A.3.
const ES256_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const ES256_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
/// RFC 8037, appendix A.4.
const ED25519_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const ED25519: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
/// When the tokens of RFC 7515 expire.
const JOE_EXPIRES: u64 = 1_300_819_380;

fn key(jwk: Value) -> Key {
    Key::jwk(&jwk).unwrap().unwrap()
}

fn rfc_keys() -> [Key; 4] {
    [
        key(json!({"kty": "oct", "k": HS256_KEY})),
        key(json!({"kty": "RSA", "n": RS256_N, "e": "AQAB", "alg": "RS256"})),
        key(json!({"kty": "EC", "crv": "P-256", "x": ES256_X, "y": ES256_Y})),
        key(json!({"kty": "OKP", "crv": "Ed25519", "x": ED25519_X})),
    ]
}

#[test]
fn the_rfcs_examples_verify_and_nothing_else_does() {
    let keys = rfc_keys();
    for (at, text) in [HS256, RS256, ES256, ED25519].into_iter().enumerate() {
        let payload = token::verified(text.as_bytes(), keys.iter()).unwrap();
        if at < 3 {
            let checks = checks(&["exp", "iss"]);
            let (claims, expires) = token::claims(&payload, &checks, JOE_EXPIRES - 1).unwrap();
            assert_eq!((claims["iss"].as_str(), expires), (Some("joe"), JOE_EXPIRES));
            assert_eq!(token::claims(&payload, &checks, JOE_EXPIRES), Err(Invalid::Expired));
        } else {
            assert_eq!(payload, b"Example of Ed25519 signing");
        }
        let others = keys.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, key)| key);
        assert_eq!(token::verified(text.as_bytes(), others), Err(Invalid::UnknownKey));
        // Every byte of the payload and the signature matters.
        let start = text.find('.').unwrap() + 1;
        for place in (start..text.len() - 1).step_by(7) {
            let mut broken = text.as_bytes().to_vec();
            broken[place] = if broken[place] == b'A' { b'B' } else { b'A' };
            if broken != text.as_bytes() {
                assert!(token::verified(&broken, keys.iter()).is_err(), "{place}");
            }
        }
    }
}

fn checks(required: &[&str]) -> Checks {
    Checks {
        issuers: Vec::new(),
        audiences: Vec::new(),
        required: required.iter().map(|name| String::from(*name)).collect(),
        scopes: Vec::new(),
        leeway: 0,
    }
}

const SECRET: &str = "a secret that is long enough for HS256";

fn signed_with(secret: &[u8], header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = [part(header), part(claims)].join(".");
    let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap().chain_update(&signed);
    [signed, URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())].join(".")
}

fn signed(claims: Value) -> String {
    signed_with(SECRET.as_bytes(), &json!({"alg": "HS256", "typ": "JWT"}), &claims)
}

fn auth(config: Value) -> MessageHarness<Auth> {
    let mut all = json!({"keys": [{"secret": SECRET}]});
    for (key, value) in config.as_object().unwrap() {
        all[key] = value.clone();
    }
    MessageHarness::new(all).unwrap()
}

fn with_token(token: &str) -> Message {
    Message::get("/x").field("authorization", format!("Bearer {token}"))
}

/// The harness's wall time at its beginning, in seconds.
const NOW: u64 = 1_700_000_001;

fn send(harness: &mut MessageHarness<Auth>, request: &Message) -> Message {
    // The response shows what the upstream got.
    harness.exchange(request, |request| Message {
        fields: request.fields.clone(),
        ..Message::response(200)
    })
}

fn status(harness: &mut MessageHarness<Auth>, request: &Message) -> u16 {
    send(harness, request).status
}

#[test]
fn a_valid_token_passes_and_its_claims_go_on() {
    let mut harness = auth(json!({
        "claims": {"sub": "x-user", "roles": "x-roles", "admin": "x-admin"}, "forward": false,
    }));
    let text = signed(json!({"sub": "alice", "roles": ["a", "b"], "exp": NOW + 100}));
    let forged = with_token(&text).field("x-user", "root").field("x-admin", "true");
    for _ in 0..2 {
        let seen = send(&mut harness, &forged);
        assert_eq!(seen.all("x-user"), ["alice"]);
        assert_eq!(seen.all("x-roles"), ["a,b"]);
        assert_eq!(seen.get_field("x-admin"), None, "what the client said of itself is gone");
        assert_eq!(seen.get_field("authorization"), None);
    }
    assert_eq!((harness.counter("valid"), harness.counter("remembered")), (1, 1));
    // Whoever reads the list would take this for two.
    let two_in_one = signed(json!({"sub": "alice", "roles": ["a,b"], "exp": NOW + 100}));
    assert_eq!(status(&mut harness, &with_token(&two_in_one)), 401);
    harness.advance(200 * SECOND);
    assert_eq!(status(&mut harness, &forged), 401, "it has expired since it was remembered");
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn refusals_are_as_rfc_6750_says() {
    let mut harness = auth(json!({"realm": "api", "scopes": ["read"]}));
    let challenge = |harness: &mut MessageHarness<Auth>, request: &Message| {
        let answer = harness.exchange(request, |_| panic!("the upstream is not asked"));
        (answer.status, answer.get_field("www-authenticate").unwrap().to_owned())
    };
    assert_eq!(challenge(&mut harness, &Message::get("/")), (401, "Bearer realm=\"api\"".into()));
    let basic = Message::get("/").field("authorization", "Basic YTpi");
    assert_eq!(challenge(&mut harness, &basic), (401, "Bearer realm=\"api\"".into()));
    let old = with_token(&signed(json!({"exp": NOW - 100, "scope": "read"})));
    assert_eq!(
        challenge(&mut harness, &old),
        (401, "Bearer realm=\"api\", error=\"invalid_token\", error_description=\"the token has expired\"".into())
    );
    let narrow = with_token(&signed(json!({"exp": NOW + 100, "scope": "write reader"})));
    let (status, text) = challenge(&mut harness, &narrow);
    assert!(
        status == 403 && text.contains("insufficient_scope") && text.ends_with("scope=\"read\""),
        "{text}"
    );
    let twice = old.clone().field("authorization", "Bearer x");
    let (status, text) = challenge(&mut harness, &twice);
    assert!(status == 400 && text.contains("invalid_request"), "{text}");
}

#[test]
fn claims_are_checked() {
    let config = json!({"issuers": ["https://a", "https://b"], "audiences": ["api"], "required": ["exp", "sub"], "leeway": 10});
    let mut harness = auth(config);
    let good = json!({"iss": "https://b", "aud": ["web", "api"], "sub": "x", "exp": NOW + 5});
    let mut with = |changes: Value| {
        let mut claims = good.clone();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        status(&mut harness, &with_token(&signed(claims)))
    };
    assert_eq!(with(json!({})), 200);
    assert_eq!(with(json!({"aud": "api"})), 200);
    assert_eq!(with(json!({"exp": NOW - 9})), 200, "within the leeway");
    assert_eq!(with(json!({"exp": NOW as f64 + 0.5})), 200);
    assert_eq!(with(json!({"nbf": NOW + 10})), 200);
    for bad in [
        json!({"exp": NOW - 10}),
        json!({"exp": null}),
        json!({"exp": "soon"}),
        json!({"exp": -1}),
        json!({"exp": 1e300}),
        json!({"nbf": NOW + 11}),
        json!({"iss": "https://c"}),
        json!({"iss": ["https://a"]}),
        json!({"aud": "web"}),
        json!({"aud": null}),
        json!({"aud": []}),
        json!({"sub": null}),
    ] {
        assert_eq!(with(bad.clone()), 401, "{bad}");
    }
}

#[test]
fn a_token_does_not_choose_its_algorithm() {
    let claims = json!({"exp": NOW + 100});
    let pem = public_pem();
    let config =
        json!({"keys": [{"pem": pem}, {"jwk": {"kty": "RSA", "n": RS256_N, "e": "AQAB"}}]});
    let mut harness = auth(config);
    // The public key, in any of its forms, as a secret.
    for secret in [
        pem.as_bytes(),
        pem.trim().as_bytes(),
        RS256_N.as_bytes(),
        &URL_SAFE_NO_PAD.decode(RS256_N).unwrap(),
    ] {
        let forged = signed_with(secret, &json!({"alg": "HS256"}), &claims);
        assert_eq!(status(&mut harness, &with_token(&forged)), 401);
    }
    let mut harness = auth(json!({}));
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for name in ["none", "None", "NONE", "nOnE", "", "HS384", "hs256", "RS256"] {
        let unsigned = [part(&json!({"alg": name})), part(&claims), String::new()].join(".");
        assert_eq!(status(&mut harness, &with_token(&unsigned)), 401, "{name}");
        let signed = signed_with(SECRET.as_bytes(), &json!({"alg": name}), &claims);
        assert_eq!(status(&mut harness, &with_token(&signed)), 401, "{name}");
    }
    for header in [
        json!({}),
        json!({"alg": null}),
        json!({"alg": ["HS256"]}),
        json!({"alg": "HS256", "crit": ["exp"], "exp": 1}),
    ] {
        let text = signed_with(SECRET.as_bytes(), &header, &claims);
        assert_eq!(status(&mut harness, &with_token(&text)), 401, "{header}");
    }
    let own_key =
        json!({"alg": "HS256", "jwk": {"kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 32])}});
    let text = signed_with(&[7; 32], &own_key, &claims);
    assert_eq!(status(&mut harness, &with_token(&text)), 401, "a key in the token is no key");
}

fn signing_key() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[9; 32])
}

/// SubjectPublicKeyInfo of Ed25519 is these bytes and the key (RFC 8410, section 4).
fn public_pem() -> String {
    let der = [
        &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00][..],
        signing_key().verifying_key().as_bytes(),
    ]
    .concat();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

fn signed_ed25519(id: &str, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = [part(&json!({"alg": "EdDSA", "kid": id})), part(claims)].join(".");
    let signature = signing_key().sign(signed.as_bytes());
    [signed, URL_SAFE_NO_PAD.encode(signature.to_bytes())].join(".")
}

#[test]
fn pem_keys_and_names_of_keys() {
    let claims = json!({"exp": NOW + 100});
    let mut harness = auth(json!({"keys": [{"pem": public_pem()}]}));
    assert_eq!(status(&mut harness, &with_token(&signed_ed25519("any", &claims))), 200);
    let mut harness = auth(json!({"keys": [{"id": "one", "pem": public_pem()}]}));
    assert_eq!(status(&mut harness, &with_token(&signed_ed25519("one", &claims))), 200);
    assert_eq!(status(&mut harness, &with_token(&signed_ed25519("two", &claims))), 401);
}

#[test]
fn a_key_of_one_issuer_signs_for_no_other() {
    const PARTNERS: &str = "a secret that the partner has for HS256";
    let own = json!({"secret": SECRET, "issuer": "https://corp/"});
    let partners = json!({"secret": PARTNERS, "issuer": "https://partner/"});
    let issuers = json!(["https://corp/", "https://partner/"]);
    let both = json!({"issuers": issuers, "keys": [own, partners]});
    for config in [both.clone(), json!({"keys": [own, partners]})] {
        let mut harness = auth(config);
        let mut with = |secret: &str, issuer: Value| {
            let claims = json!({"iss": issuer, "sub": "admin", "exp": NOW + 100});
            let token = signed_with(secret.as_bytes(), &json!({"alg": "HS256"}), &claims);
            status(&mut harness, &with_token(&token))
        };
        assert_eq!(with(SECRET, json!("https://corp/")), 200);
        assert_eq!(with(PARTNERS, json!("https://partner/")), 200);
        assert_eq!(with(SECRET, json!("https://partner/")), 401);
        for forged in [json!("https://corp/"), json!(["https://corp/"]), json!("x"), json!(null)] {
            assert_eq!(with(PARTNERS, forged.clone()), 401, "{forged}");
        }
    }
    let (mut harness, ..) = with_jwks(ed25519_set(), Some("https://partner/"));
    for (issuer, expected) in [("https://partner/", 200), ("https://corp/", 401)] {
        let token = signed_ed25519("k1", &json!({"iss": issuer, "exp": NOW + 100}));
        assert_eq!(status(&mut harness, &with_token(&token)), expected, "{issuer}");
    }
    // Of keys that sign for all of several, the log tells.
    let warnings = |config: Value| auth(config).log().len();
    assert_eq!(warnings(json!({"issuers": issuers, "keys": [own, {"secret": PARTNERS}]})), 1);
    assert_eq!(warnings(both), 0);
    assert_eq!(warnings(json!({"issuers": ["https://corp/"], "keys": [{"secret": SECRET}]})), 0);
}

#[test]
fn a_client_cannot_say_what_a_claim_does_by_a_name_that_looks_alike() {
    for config in [json!({"optional": true}), json!({"public": ["/x"]}), json!({})] {
        let mut config = config;
        config["claims"] = json!({"sub": "x-user", "roles": "x_roles"});
        let token = signed(json!({"sub": "alice", "roles": ["a"], "exp": NOW + 100}));
        let harmless = ["x-users", "xuser", "x-use-r"];
        let forged = ["x-user", "x_user", "x.user", "x_roles", "x-roles", "x!roles"];
        let mut request = if config["public"].is_null() && config["optional"].is_null() {
            with_token(&token)
        } else {
            Message::get("/x")
        };
        for name in [&forged[..], &harmless, &forged].concat() {
            request = request.field(name, "root");
        }
        let seen = send(&mut auth(config), &request);
        let named = |text: &str| {
            let of_client = seen.fields.iter().filter(|(_, value)| value == text.as_bytes());
            of_client.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        assert_eq!((seen.status, named("root")), (200, harmless.map(String::from).to_vec()));
    }
}

#[test]
fn a_preflight_passes_without_a_token_where_it_is_told_to() {
    let with = |method: &str, fields: &[&str]| {
        let request = Message::request(method, "/x");
        fields.iter().fold(request, |request, name| request.field(name, "x"))
    };
    let both = ["origin", "access-control-request-method"];
    for bypass in [false, true] {
        let mut harness = auth(json!({"bypass-cors-preflight": bypass}));
        let preflight = status(&mut harness, &with("OPTIONS", &both));
        assert_eq!(preflight, if bypass { 200 } else { 401 });
        for other in [with("OPTIONS", &both[..1]), with("OPTIONS", &both[1..]), with("POST", &both)]
        {
            assert_eq!(status(&mut harness, &other), 401, "{other:?}");
        }
    }
}

#[test]
fn some_requests_need_no_token() {
    let mut harness = auth(json!({"public": ["/health", "/static/"], "claims": {"sub": "x-user"}}));
    for (path, expected) in [
        ("/health", 200),
        ("/health?x", 200),
        ("/health/live", 200),
        ("/healthy", 401),
        ("/static/a.js", 200),
        ("/static/../secret", 401),
        ("/static/%2e%2e/secret", 401),
        ("/static/..\\secret", 401),
        ("/static", 401),
    ] {
        let seen = send(&mut harness, &Message::get(path).field("x-user", "root"));
        assert_eq!((seen.status, seen.get_field("x-user")), (expected, None), "{path}");
    }
    let mut harness = auth(json!({"optional": true, "claims": {"sub": "x-user"}}));
    let seen = send(&mut harness, &Message::get("/").field("x-user", "root"));
    assert_eq!((seen.status, seen.get_field("x-user")), (200, None));
    assert_eq!(status(&mut harness, &with_token("a.b.c")), 401, "but a bad one is refused");
    let mut harness = auth(json!({"cookie": "token"}));
    let cookie = format!("a=b; token={}", signed(json!({"exp": NOW + 9})));
    assert_eq!(status(&mut harness, &Message::get("/").field("cookie", cookie)), 200);
}

#[test]
fn claims_that_no_field_can_carry_are_refused() {
    let mut harness = auth(json!({"claims": {"sub": "x-user"}}));
    for sub in ["a\r\nx-admin: 1", "a\0", " a", "a\u{7f}"] {
        let text = signed(json!({"sub": sub, "exp": NOW + 9}));
        assert_eq!(status(&mut harness, &with_token(&text)), 401, "{sub:?}");
    }
    let text = signed(json!({"sub": {"n": 1}, "exp": NOW + 9}));
    assert_eq!(send(&mut harness, &with_token(&text)).get_field("x-user"), Some("{\"n\":1}"));
}

fn with_jwks(
    harness_keys: Value,
    issuer: Option<&str>,
) -> (MessageHarness<Auth>, Rc<Cell<usize>>, Rc<Cell<bool>>) {
    let config = json!({"keys": [], "jwks": {"upstream": "b", "authority": "auth.example", "path": "/jwks.json", "refresh": 100, "issuer": issuer}});
    let mut harness = auth(config);
    let (calls, works) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(true)));
    let (count, up) = (calls.clone(), works.clone());
    harness.on_call(move |upstream, request| {
        assert_eq!(
            (upstream, &request.path[..], request.authority.as_str()),
            (1, &b"/jwks.json"[..], "auth.example")
        );
        count.set(count.get() + 1);
        if !up.get() {
            return Err(3);
        }
        Ok(Message::response(200).body(harness_keys.to_string()))
    });
    (harness, calls, works)
}

fn ed25519_set() -> Value {
    let x = URL_SAFE_NO_PAD.encode(signing_key().verifying_key().as_bytes());
    json!({"keys": [
        {"kty": "XX", "kid": "odd"}, {"kty": "RSA", "n": "broken"}, {"kty": "oct", "k": HS256_KEY},
        {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k1", "use": "sig"},
        {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k2", "use": "enc"},
    ]})
}

#[test]
fn keys_are_fetched_when_needed_and_again_when_they_are_old() {
    let (mut harness, calls, works) = with_jwks(ed25519_set(), None);
    let good = with_token(&signed_ed25519("k1", &json!({"exp": NOW + 10_000})));
    assert_eq!(status(&mut harness, &good), 200);
    assert_eq!(status(&mut harness, &good), 200);
    assert_eq!(calls.get(), 1);
    // A key of no set asks for another one, but not each time.
    let unknown = with_token(&signed_ed25519("k3", &json!({"exp": NOW + 10_000})));
    for _ in 0..5 {
        assert_eq!(status(&mut harness, &unknown), 401);
    }
    assert_eq!(calls.get(), 1);
    harness.advance(FETCH_EVERY);
    assert_eq!(status(&mut harness, &unknown), 401);
    assert_eq!(calls.get(), 2);
    // So does a wrong signature: the key may be another one by now.
    let [one, other] = [1, 2].map(|n| signed_ed25519("k1", &json!({"exp": NOW + 10_000, "n": n})));
    let mixed = [one.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1].join(".");
    assert_eq!((status(&mut harness, &with_token(&mixed)), calls.get()), (401, 2));
    harness.advance(FETCH_EVERY);
    assert_eq!((status(&mut harness, &with_token(&mixed)), calls.get()), (401, 3));
    let encryption = with_token(&signed_ed25519("k2", &json!({"exp": NOW + 10_000})));
    assert_eq!(status(&mut harness, &encryption), 401);
    let public_secret = signed_with(
        &URL_SAFE_NO_PAD.decode(HS256_KEY).unwrap(),
        &json!({"alg": "HS256"}),
        &json!({"exp": NOW + 9999}),
    );
    assert_eq!(
        status(&mut harness, &with_token(&public_secret)),
        401,
        "a secret that is published is none"
    );
    harness.advance(100 * SECOND);
    works.set(false);
    assert_eq!(status(&mut harness, &good), 200, "old keys hold while new ones cannot be had");
    assert_eq!(calls.get(), 4);
    assert_eq!(harness.counter("key_failures"), 1);
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn keys_that_are_fetched_beside_may_come_when_their_request_is_over() {
    let (mut harness, calls, _) = with_jwks(ed25519_set(), None);
    let good = with_token(&signed_ed25519("k1", &json!({"exp": NOW + 10_000})));
    assert_eq!(status(&mut harness, &good), 200);
    harness.advance(100 * SECOND);
    harness.set_late(true);
    for _ in 0..3 {
        assert_eq!(status(&mut harness, &good), 200, "nobody waits for what is known");
    }
    harness.bring_late();
    assert_eq!(calls.get(), 2);
    harness.advance(50 * SECOND);
    assert_eq!(status(&mut harness, &good), 200);
    harness.bring_late();
    assert_eq!(calls.get(), 2, "they are fresh again");
}

#[test]
fn a_key_server_that_is_down_refuses_and_is_not_flooded() {
    let (mut harness, calls, works) = with_jwks(ed25519_set(), None);
    works.set(false);
    let good = with_token(&signed_ed25519("k1", &json!({"exp": NOW + 10_000})));
    for _ in 0..5 {
        assert_eq!(status(&mut harness, &good), 401);
    }
    assert_eq!(calls.get(), 1);
    works.set(true);
    harness.advance(FETCH_EVERY);
    assert_eq!(status(&mut harness, &good), 200);
}

#[test]
fn a_claim_goes_on_in_no_field_that_the_gateway_has_of_its_own() {
    let own = ["content-length", "cookie", "host"];
    for field in HOP_FIELDS.into_iter().chain(own) {
        let config = json!({"keys": [{"secret": SECRET}], "claims": {"sub": field}});
        let error = MessageHarness::<Auth>::new(config).unwrap_err();
        assert!(error.contains("claims: ") && error.contains(field), "{field}: {error}");
    }
}

#[test]
fn mistakes_are_named() {
    let refused = |config: Value| MessageHarness::<Auth>::new(config).unwrap_err();
    let small = URL_SAFE_NO_PAD.encode([0xff; 128]);
    for (config, part) in [
        (json!({}), "without keys"),
        (json!({"keys": [{}]}), "keys[0]: a key is one of"),
        (json!({"keys": [{"secret": "short"}]}), "5 bytes is too short"),
        (json!({"keys": [{"secret-base64": "!"}]}), "secret-base64"),
        (json!({"keys": [{"pem": "x"}]}), "BEGIN PUBLIC KEY"),
        (
            json!({"keys": [{"pem": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}]}),
            "none of RSA",
        ),
        (json!({"keys": [{"jwk": {"kty": "RSA", "n": small, "e": "AQAB"}}]}), "1024 bits"),
        (
            json!({"keys": [{"jwk": {"kty": "EC", "crv": "P-256", "x": ES256_X, "y": ES256_X}}]}),
            "no point",
        ),
        (
            json!({"keys": [{"jwk": {"kty": "oct", "k": HS256_KEY, "alg": "HS512"}}]}),
            "not for verifying",
        ),
        (
            json!({"jwks": {"upstream": "c", "authority": "x", "path": "/"}}),
            "no upstream is named \"c\"; there are a, b",
        ),
        (
            json!({"jwks": {"upstream": "a", "authority": "a b", "path": "/"}}),
            "jwks.authority: \"a b\"",
        ),
        (json!({"jwks": {"upstream": "a", "authority": "a", "path": "x"}}), "jwks.path: \"x\""),
        (json!({"keys": [{"secret": SECRET}], "claims": {"sub": "X-User"}}), "X-User"),
        (
            json!({"keys": [{"secret": SECRET}], "claims": {"sub": "authorization"}}),
            "authorization",
        ),
        (json!({"keys": [{"secret": SECRET}], "public": ["/a", ""]}), "public[1]: \"\" is no path"),
        (json!({"keys": [{"secret": SECRET}], "public": ["health"]}), "public[0]: \"health\""),
        (json!({"keys": [{"secret": SECRET}], "cookie": "a;b"}), "cookie: \"a;b\""),
        (json!({"keys": [{"secret": SECRET}], "issuers": []}), "issuers: the list is empty"),
        (json!({"keys": [{"secret": SECRET}], "audiences": []}), "audiences: the list is empty"),
        (json!({"keys": [{"secret": SECRET}], "realm": "a\"b"}), "realm"),
        (
            json!({"keys": [{"secret": SECRET, "issuer": "b"}], "issuers": ["a"]}),
            "keys[0]: issuer: \"b\" is none of `issuers`",
        ),
    ] {
        let error = refused(config);
        assert!(error.contains(part), "{error}");
        assert!(!error.contains("a secret that is long"), "secrets are not shown");
    }
}

proptest! {
    #[test]
    fn no_token_panics_and_none_is_valid_by_chance(text in "[A-Za-z0-9_.=-]{0,120}", header in "[ -~]{0,60}", payload in "[ -~]{0,60}") {
        let keys = rfc_keys();
        prop_assert!(token::verified(text.as_bytes(), keys.iter()).is_err());
        let built = [URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&payload), text].join(".");
        prop_assert!(token::verified(built.as_bytes(), keys.iter()).is_err());
        let _ = token::claims(payload.as_bytes(), &checks(&[]), 1);
    }
}
