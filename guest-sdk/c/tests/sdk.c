/* Parts of the SDK that need no host, natively: checksums with the examples of their RFCs, prefixes against inet_pton, JSON, UTF-8
 * against iconv. Run by tests/tests/languages.rs. */

#include "../src/document.h"
#include "../src/utf8.h"

#include <arpa/inet.h>
#include <assert.h>
#include <iconv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <weir/checksum.h>
#include <weir/net.h>

/* As src/host.c has it, which is for Wasm. */
bool weir_text_is(weir_text text, const char *other) {
    return strlen(other) == text.length && memcmp(text.bytes, other, text.length) == 0;
}

static void checksums(void) {
    /* RFC 1071, section 3, and RFC 1624, section 4. */
    const uint8_t words[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    assert(weir_checksum_fold(weir_checksum_sum(words, sizeof words)) == 0xddf2);
    assert(weir_checksum_update16(0xdd2f, 0x5555, 0x3285) == 0x0000);
    assert(weir_checksum_udp(0x0000) == 0xffff && weir_checksum_udp(0xdd2f) == 0xdd2f);
    const uint8_t header[] = {0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7};
    assert(weir_checksum(header, sizeof header) == 0xb861);
    /* An update gives what a new sum gives, for bytes of any length. */
    for (int round = 0; round < 10000; round++) {
        uint8_t bytes[64], changed[64];
        size_t length = 8 + (size_t)rand() % 56;
        for (size_t at = 0; at < length; at++) bytes[at] = (uint8_t)rand();
        bytes[0] |= 1;
        memcpy(changed, bytes, length);
        for (size_t at = 4; at < 8; at++) changed[at] = (uint8_t)rand();
        uint16_t before = weir_checksum(bytes, length), after = weir_checksum(changed, length);
        assert(weir_checksum_update32(before, weir_get32(bytes + 4), weir_get32(changed + 4)) == after);
        /* One word at a time. */
        uint32_t sum = 0;
        for (size_t at = 0; at < length; at += 2) {
            sum += (uint32_t)bytes[at] << 8 | (at + 1 < length ? bytes[at + 1] : 0);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert((uint16_t)~sum == before);
    }
}

static void prefixes(void) {
    /* Every text of these letters, put together at random, is an address for both or for none. */
    static const char *const pieces[] = {":", "::", ".", "0", "1", "255", "256", "abcd", "ffff", "12345", "g", "10", ""};
    int good = 0;
    for (int round = 0; round < 2000000; round++) {
        char text[80] = "";
        int count = rand() % 16;
        for (int at = 0; at < count; at++) strcat(text, pieces[rand() % (int)(sizeof pieces / sizeof pieces[0])]);
        uint8_t address[16] = {0};
        bool v6 = strchr(text, ':') != NULL;
        bool is = inet_pton(v6 ? AF_INET6 : AF_INET, text, address) == 1;
        weir_prefix prefix;
        if (weir_prefix_read(text, strlen(text), &prefix) != is || (is && memcmp(prefix.address, address, v6 ? 16 : 4) != 0)) {
            printf("%s: %d\n", text, is);
            abort();
        }
        good += is;
    }
    assert(good > 1000);
    weir_prefix prefix;
    assert(weir_prefix_read("10.255.255.255/9", 16, &prefix) && prefix.length == 9 && memcmp(prefix.address, "\x0a\x80\0\0", 4) == 0);
    assert(weir_prefix_read("::/0", 4, &prefix) && prefix.is_v6 && prefix.length == 0);
    static const char *const wrong[] = {"10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8x", "::/129", "/8", "10.0.0.0/+8", "10.0.0.0/8/8"};
    for (size_t at = 0; at < sizeof wrong / sizeof wrong[0]; at++) assert(!weir_prefix_read(wrong[at], strlen(wrong[at]), &prefix));
}

static weir_json member(weir_json object, const char *key) {
    weir_json_member at = weir_json_first(object);
    while (at.there && !weir_text_is(at.key, key)) at = weir_json_following(at);
    assert(at.there);
    return at.value;
}

static void json(void) {
    const char *text = "{\"a\":[1,[2,{\"x\":\"y\"}],-9223372036854775808,1.5,9223372036854775808],\"s\":\"\\u00e4\\ud83d\\ude00\\n\\\"\",\"t\":true,\"n\":null,\"o\":{}}";
    weir_json root;
    assert(weir_document_parse(text, strlen(text), &root));
    assert(weir_json_count(root) == 5 && weir_json_kind_of(member(root, "t")) == WEIR_JSON_TRUE);
    assert(weir_json_kind_of(member(root, "n")) == WEIR_JSON_NULL && !weir_json_first(member(root, "o")).there);
    char copy[16];
    assert(weir_json_copy(member(root, "s"), copy, sizeof copy) && strcmp(copy, "\xc3\xa4\xf0\x9f\x98\x80\n\"") == 0);
    assert(!weir_json_copy(member(root, "s"), copy, 8) && !weir_json_copy(root, copy, sizeof copy));
    int64_t number;
    weir_json_member at = weir_json_first(member(root, "a"));
    assert(weir_json_integer(at.value, 0, 1, &number) && number == 1 && !weir_json_integer(at.value, 2, 3, &number));
    at = weir_json_following(at);
    assert(weir_json_kind_of(at.value) == WEIR_JSON_LIST && weir_json_count(at.value) == 2);
    at = weir_json_following(at);
    assert(weir_json_integer(at.value, INT64_MIN, 0, &number) && number == INT64_MIN);
    at = weir_json_following(at);
    double fraction;
    assert(!weir_json_integer(at.value, 0, 9, &number) && weir_json_number(at.value, &fraction) && fraction == 1.5);
    at = weir_json_following(at);
    assert(!weir_json_integer(at.value, INT64_MIN, INT64_MAX, &number));
    assert(weir_json_number(at.value, &fraction) && fraction == 9223372036854775808.0);
    assert(!weir_json_number(member(root, "s"), &fraction) && !weir_json_number(member(root, "t"), &fraction));
    assert(!weir_json_following(at).there);
    weir_document_free(root);
    /* A character 0 would end the copy. */
    assert(weir_document_parse("\"a\\u0000b\"", 10, &root) && !weir_json_copy(root, copy, sizeof copy));
    weir_document_free(root);
    /* What is no JSON is refused or read, but nothing beyond it. */
    for (int round = 0; round < 200000; round++) {
        char broken[128];
        size_t length = strlen(text);
        memcpy(broken, text, length);
        for (int change = rand() % 4; change >= 0; change--) broken[(size_t)rand() % length] = "{}[],:\"\\0u"[rand() % 10];
        char *exact = malloc(length);
        memcpy(exact, broken, length);
        if (weir_document_parse(exact, length, &root)) {
            for (weir_json_member m = weir_json_first(root); m.there; m = weir_json_following(m)) {
                weir_json_copy(m.value, copy, sizeof copy);
                weir_json_integer(m.value, 0, 1, &number);
                weir_json_number(m.value, &fraction);
            }
            weir_document_free(root);
        }
        free(exact);
    }
}

/* No frame is read beyond its end. */
static void frames(void) {
    for (int round = 0; round < 1000000; round++) {
        static const uint16_t types[] = {0x0800, 0x86dd, 0x8100, 0x88a8};
        size_t length = (size_t)rand() % 120;
        uint8_t *frame = malloc(length == 0 ? 1 : length);
        for (size_t at = 0; at < length; at++) frame[at] = (uint8_t)(rand() % 4 ? 0 : rand());
        if (length >= 14) weir_put16(frame + 12, types[rand() % 4]);
        if (length >= 21) {
            frame[14] = rand() % 2 ? 0x45 : 0x60;
            frame[20] = (uint8_t[]){0, 43, 44, 60, 6, 17}[rand() % 6];
        }
        weir_headers headers;
        if (weir_parse(frame, (uint32_t)length, &headers) >= WEIR_IPV4) {
            assert(headers.l3 < headers.l4 && headers.l4 <= headers.end && headers.end <= length);
        }
        free(frame);
    }
}

static void utf8(void) {
    /* To UTF-16, which has room for all characters and nothing else. */
    iconv_t reader = iconv_open("UTF-16LE", "UTF-8");
    assert(reader != (iconv_t)-1);
    int good = 0;
    for (int round = 0; round < 1000000; round++) {
        /* Bytes at which something begins or ends. */
        static const uint8_t bytes[] = {'a', 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff};
        size_t length = (size_t)rand() % 6;
        char *text = malloc(length == 0 ? 1 : length);
        for (size_t at = 0; at < length; at++) text[at] = (char)bytes[(size_t)rand() % sizeof bytes];
        char *from = text, out[32], *to = out;
        size_t left = length, room = sizeof out;
        bool is = iconv(reader, &from, &left, &to, &room) != (size_t)-1;
        iconv(reader, NULL, NULL, NULL, NULL);
        assert(weir_utf8_is(text, length) == is);
        good += is && length > 1;
        char mended[6];
        memcpy(mended, text, length);
        weir_utf8_mend(mended, length);
        assert(weir_utf8_is(mended, length) && (!is || memcmp(mended, text, length) == 0));
        free(text);
    }
    assert(good > 1000);
    iconv_close(reader);
    char cut[] = "a\xffz\xc3\xa4\xe2\x82";
    weir_utf8_mend(cut, strlen(cut));
    assert(strcmp(cut, "a?z\xc3\xa4??") == 0);
}

int main(void) {
    checksums();
    prefixes();
    json();
    frames();
    utf8();
    return 0;
}
