// Functions for requests and responses (L7) and for connections (L4) in C++: the C SDK with views and optionals. Costs nothing beyond it.
//
//     struct Function : weir::MessageFunction {
//         bool configure(const weir::Setup &setup, weir::Json config, weir::Error &error);
//         std::uint32_t wants() { return WEIR_REQUEST_HEAD; }
//         weir::Outcome request_head(weir::Exchange exchange, weir::Head &head);
//     };
//     WEIR_EXPORT_MESSAGE(Function)
//
// and the same with weir::ConnectionFunction, `opened`, `data` and WEIR_EXPORT_CONNECTION.
#pragma once

#include <initializer_list>

#include <weir/host.hpp>
#include <weir/message.h>

namespace weir {

// What an event answers.
enum class Outcome {
    // The next function has it.
    proceed = WEIR_CONTINUE,
    // The function has answered the exchange itself: what `Exchange::answer` gives back.
    answer = WEIR_ANSWER,
    // The stream or connection is ended without an answer.
    reset = WEIR_RESET,
    // Nothing of this exchange in this direction moves until `resume`.
    wait = WEIR_WAIT,
    // Of a body's piece: it stays where it is, and the function wants to see the next one.
    hold_piece = WEIR_HOLD_PIECE,
    // As `proceed`; this function wants no more events of this exchange but `ended`.
    finished = WEIR_FINISHED,
};

// A text of C's as one of C++'s, and the other way round. Neither copies.
inline std::string_view view(weir_text text) { return {text.bytes, text.length}; }
inline weir_text text(std::string_view text) { return {text.data(), text.size()}; }

// A request's or response's head, or a connection; valid until the event returns. Names of fields end with a 0.
class Head {
public:
    explicit Head(weir_head &head) : head_(head) {}

    std::string_view method() const { return view(weir_head_method(&head_)); }
    // Path and query, as the client wrote them. Many servers take `/%61`, `//a` and `/./a` for `/a`.
    std::string_view path() const { return view(weir_head_path(&head_)); }
    std::string_view authority() const { return view(weir_head_authority(&head_)); }
    // What TLS's SNI said.
    std::string_view server_name() const { return view(weir_head_server_name(&head_)); }
    // 0 in requests and connections.
    std::uint16_t status() const { return weir_head_status(&head_); }
    // 16 bytes; IPv4 as ::ffff:a.b.c.d.
    std::span<const std::uint8_t, 16> client() const { return std::span<const std::uint8_t, 16>(weir_head_client(&head_), 16); }
    // The first field of this name. Names are compared without regard to case, and written in lower case.
    std::optional<std::string_view> field(const char *name) const {
        weir_text value;
        return weir_head_field(&head_, name, &value) ? std::optional(view(value)) : std::nullopt;
    }
    // The upstream that sent a response, a place in `Setup::raw().ports`, or -1 if that is not known.
    std::int32_t upstream() const { return weir_head_upstream(&head_); }
    // Adds a field. False if it does not fit, or has no name; then nothing is changed. So for the two that follow.
    bool add(const char *name, std::string_view value) { return weir_head_add(&head_, name, text(value)); }
    // Makes this the only field of its name.
    bool set(const char *name, std::string_view value) { return weir_head_set(&head_, name, text(value)); }
    bool set_path(std::string_view path) { return weir_head_set_path(&head_, text(path)); }
    // Deletes all fields of this name: whether there were any.
    bool remove(const char *name) { return weir_head_remove(&head_, name); }
    // 200 to 599.
    void set_status(std::uint16_t status) { weir_head_set_status(&head_, status); }
    // The rest, as the C SDK has it. An event that waits may keep a copy of it: what `resume` changes of that, `Head(kept).set(...)`, counts.
    weir_head &raw() { return head_; }

private:
    weir_head &head_;
};

// A piece of a body, or bytes of a connection; valid until the event returns.
class Piece {
public:
    explicit Piece(weir_piece &piece) : piece_(piece) {}

    std::span<std::uint8_t> data() const { return {piece_.data, piece_.length}; }
    // There is none after it.
    bool last() const { return piece_.last; }
    // Says that bytes were changed without the length.
    void changed() { weir_piece_changed(&piece_); }
    // Gives it another length, when its bytes have been changed. False beyond its room (`raw().room`).
    bool resize(std::uint32_t length) { return weir_piece_resize(&piece_, length); }
    // Leaves it out.
    void drop() { weir_piece_drop(&piece_); }
    weir_piece &raw() { return piece_; }

private:
    weir_piece &piece_;
};

// A request with its response, or a connection.
class Exchange {
public:
    explicit Exchange(std::uint32_t number) : number_(number) {}

    std::uint32_t number() const { return number_; }
    // Answers it; `return` what this gives back. Bytes are copied.
    Outcome answer(std::uint16_t status, std::initializer_list<weir_field> fields, std::string_view body) const {
        auto count = static_cast<std::uint32_t>(fields.size());
        weir_refusal why = weir_answer(number_, status, fields.begin(), count, text(body));
        return why == WEIR_DONE ? Outcome::answer : Outcome::reset;
    }
    // Sends it to this upstream, a place in `Setup::raw().ports`. False if the host refused.
    bool route(std::uint32_t upstream) const { return weir_route(number_, upstream) == WEIR_DONE; }

private:
    std::uint32_t number_;
};

// What functions for messages derive from: events that they do not have let all pass.
struct MessageFunction {
    Outcome request_head(Exchange, Head &) { return Outcome::proceed; }
    Outcome request_body(Exchange, Piece &) { return Outcome::proceed; }
    Outcome response_head(Exchange, Head &) { return Outcome::proceed; }
    Outcome response_body(Exchange, Piece &) { return Outcome::proceed; }
    // What was asked for under this token is there; `head` is NULL without a response's head.
    Outcome resume(Exchange, std::uint32_t, std::uint32_t, weir_head *, std::string_view) { return Outcome::proceed; }
    void ended(Exchange, std::uint32_t, std::uint32_t, std::uint64_t) {}
    void tick(std::uint64_t) {}
};

// What functions for connections derive from.
struct ConnectionFunction {
    Outcome opened(Exchange, Head &) { return Outcome::proceed; }
    Outcome data(Exchange, bool, Piece &) { return Outcome::proceed; }
    Outcome resume(Exchange, std::uint32_t, std::uint32_t, weir_head *, std::string_view) { return Outcome::proceed; }
    void ended(Exchange, std::uint32_t, std::uint32_t, std::uint64_t) {}
    void tick(std::uint64_t) {}
};

} // namespace weir

#define WEIR_EXPORT_EVENT(name, Argument, View)                                                         \
    extern "C" weir_outcome weir_##name(uint32_t exchange, Argument *argument) {                        \
        weir::View view(*argument);                                                                     \
        return static_cast<weir_outcome>(weir_function.name(weir::Exchange(exchange), view));           \
    }

#define WEIR_EXPORT_COMMON(Type)                                                                        \
    static Type weir_function;                                                                          \
    extern "C" bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error) {      \
        weir::Error why(*error);                                                                        \
        return weir_function.configure(weir::Setup(*setup), weir::Json(config), why);                   \
    }                                                                                                   \
    extern "C" uint32_t weir_wants(void) { return weir_function.wants(); }                              \
    extern "C" weir_outcome weir_resume(uint32_t exchange, uint32_t token, uint32_t status,             \
                                        weir_head *head, const uint8_t *body, uint32_t length) {        \
        std::string_view bytes(reinterpret_cast<const char *>(body), length);                           \
        auto outcome = weir_function.resume(weir::Exchange(exchange), token, status, head, bytes);      \
        return static_cast<weir_outcome>(outcome);                                                      \
    }                                                                                                   \
    extern "C" void weir_ended(uint32_t exchange, uint32_t how, uint32_t upstream, uint64_t time) {     \
        weir_function.ended(weir::Exchange(exchange), how, upstream, time);                             \
    }                                                                                                   \
    extern "C" void weir_tick(uint64_t now) { weir_function.tick(now); }

// Exports a type as the function for messages of this module. There is one of it; its constructor runs before `configure`.
#define WEIR_EXPORT_MESSAGE(Type)                                                                       \
    WEIR_EXPORT_COMMON(Type)                                                                            \
    WEIR_EXPORT_EVENT(request_head, weir_head, Head)                                                    \
    WEIR_EXPORT_EVENT(request_body, weir_piece, Piece)                                                  \
    WEIR_EXPORT_EVENT(response_head, weir_head, Head)                                                   \
    WEIR_EXPORT_EVENT(response_body, weir_piece, Piece)

// The same for connections.
#define WEIR_EXPORT_CONNECTION(Type)                                                                    \
    WEIR_EXPORT_COMMON(Type)                                                                            \
    WEIR_EXPORT_EVENT(opened, weir_head, Head)                                                          \
    extern "C" weir_outcome weir_data(uint32_t exchange, bool from_upstream, weir_piece *piece) {       \
        weir::Piece bytes(*piece);                                                                      \
        auto outcome = weir_function.data(weir::Exchange(exchange), from_upstream, bytes);              \
        return static_cast<weir_outcome>(outcome);                                                      \
    }
