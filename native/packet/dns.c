// dns.c: see dns.h. One question, class IN; a name is looked up in the asker's networks only, in interface order:
// as it is in all of them, then as "<name>.<network name>", the longest name first. A known name without the asked
// family is an empty NOERROR.
#include "dns.h"

enum { TYPE_A = 1, TYPE_PTR = 12, TYPE_OPT = 41, TYPE_ANY = 255, CLASS_IN = 1, CLASS_ANY = 255 };
// Of a name: 255 bytes with the length bytes and the end (RFC 1035) are this many characters.
enum { NAME_TEXT_MAX = 253, LABEL_MAX = 63 };
typedef struct Question { char name[NAME_SIZE_MAX + 1]; uint32_t end; uint16_t type, class; } Question;

// Reads the one question; names in questions are never compressed.
static bool read_question(const uint8_t *query, uint32_t size, Question *q) {
  if (size < DNS_HEADER || (query[2] & 0x80) || load_be16(query + 4) != 1) return false;
  uint32_t at = DNS_HEADER, length = 0;
  for (;;) {
    if (at >= size) return false;
    uint32_t label = query[at++];
    if (label == 0) break;
    if (label > LABEL_MAX || at + label > size || length + (length > 0) + label > NAME_TEXT_MAX) return false;
    if (length) q->name[length++] = '.';
    for (uint32_t i = 0; i < label; i++, at++) {
      uint8_t c = query[at];
      // A dot or NUL inside a label can match no name of ours.
      q->name[length++] = c == 0 || c == '.' ? 1 : c >= 'A' && c <= 'Z' ? (char)(c + 32) : (char)c;
    }
  }
  q->name[length] = 0;
  if (at + 4 > size) return false;
  q->type = load_be16(query + at);
  q->class = load_be16(query + at + 2);
  q->end = at + 4;
  return true;
}

// Where a name ends, without looking at where a pointer leads; 0 when it is cut.
static uint32_t skip_name(const uint8_t *query, uint32_t size, uint32_t at) {
  while (at < size) {
    uint8_t label = query[at];
    if (label == 0) return at + 1;
    if (label >= 0xc0) return at + 2;
    if (label > LABEL_MAX) return 0;
    at += label + 1u;
  }
  return 0;
}

// The first OPT among the additional records says how much the asker takes.
static bool has_edns(const uint8_t *query, uint32_t size, const Question *q, uint32_t *limit) {
  uint32_t before = (uint32_t)load_be16(query + 6) + load_be16(query + 8), count = before + load_be16(query + 10);
  uint32_t at = q->end;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t end = skip_name(query, size, at);
    if (!end || end + 10 > size) return false;
    uint32_t next = end + 10 + load_be16(query + end + 8);
    if (next > size) return false;
    if (i >= before && query[at] == 0 && load_be16(query + end) == TYPE_OPT) {
      uint32_t asked = load_be16(query + end + 2);
      *limit = asked < DNS_UDP_MIN ? DNS_UDP_MIN : asked > 4096 ? 4096 : asked;
      return true;
    }
    at = next;
  }
  return false;
}

uint32_t dns_udp_limit(const uint8_t *query, uint32_t size) {
  Question q;
  uint32_t limit = DNS_UDP_MIN;
  if (read_question(query, size, &q)) has_edns(query, size, &q, &limit);
  return limit;
}

// Header and question of a reply.
static uint32_t start_reply(const uint8_t *query, const Question *q, uint8_t code, uint8_t *out) {
  memcpy(out, query, q->end);
  out[2] = (uint8_t)(0x80 | (query[2] & 0x79));
  out[3] = (uint8_t)(0x80 | code);
  store_be16(out + 4, 1);
  memset(out + 6, 0, 6);
  return q->end;
}

uint32_t dns_refuse(const uint8_t *query, uint32_t size, uint8_t code, uint8_t *out) {
  Question q;
  if (!read_question(query, size, &q)) return 0;
  return start_reply(query, &q, code, out);
}

uint32_t dns_truncate(uint8_t *answer, uint32_t size) {
  if (size < DNS_HEADER) return 0;
  uint32_t at = DNS_HEADER;
  if (load_be16(answer + 4) == 1) {
    while (at < size && answer[at] && answer[at] < 64) at += answer[at] + 1u;
    at += 5;
    if (at > size) return 0;
  } else {
    store16(answer + 4, 0);
  }
  answer[2] |= 2;
  memset(answer + 6, 0, 6);
  return at;
}

// Length of the name before ".<network name>", 0 when the text does not end so.
static size_t name_before(const Network *network, const char *text, size_t length) {
  size_t suffix = network ? strlen(network->name) : 0;
  if (!suffix || length < suffix + 2 || text[length - suffix - 1] != '.') return 0;
  for (size_t k = 0; k < suffix; k++) {
    char c = network->name[k];
    if (text[length - suffix + k] != (c >= 'A' && c <= 'Z' ? c + 32 : c)) return 0;
  }
  return length - suffix - 1;
}

static const Name *find_name(const Snapshot *tables, const DnsAsker *asker, const char *text) {
  for (uint32_t i = 0; i < asker->vni_count; i++) {
    const Name *name = snapshot_name(tables, asker->vnis[i], text);
    if (name) return name;
  }
  size_t before[SANDBOX_INTERFACES_MAX], length = strlen(text), last = length;
  uint32_t count = asker->vni_count < SANDBOX_INTERFACES_MAX ? asker->vni_count : SANDBOX_INTERFACES_MAX;
  for (uint32_t i = 0; i < count; i++) before[i] = name_before(snapshot_network(tables, asker->vnis[i]), text, length);
  for (;;) {
    size_t longest = 0;
    for (uint32_t i = 0; i < count; i++)
      if (before[i] < last && before[i] > longest) longest = before[i];
    if (!longest) return NULL;
    char plain[NAME_SIZE_MAX + 1];
    memcpy(plain, text, longest);
    plain[longest] = 0;
    for (uint32_t i = 0; i < count; i++) {
      const Name *name = before[i] == longest ? snapshot_name(tables, asker->vnis[i], plain) : NULL;
      if (name) return name;
    }
    last = longest;
  }
}

// "4.3.2.1.in-addr.arpa" to an address; numbers with zeros before them make other names.
static bool reverse_address(const char *text, uint32_t *address) {
  uint8_t bytes[4];
  for (int i = 3; i >= 0; i--) {
    uint32_t value = 0, digits = 0;
    if (text[0] == '0' && text[1] != '.') return false;
    for (; *text >= '0' && *text <= '9' && digits < 4; text++, digits++) value = value * 10 + (uint32_t)(*text - '0');
    if (!digits || value > 255 || *text++ != '.') return false;
    bytes[i] = (uint8_t)value;
  }
  if (strcmp(text, "in-addr.arpa") != 0) return false;
  memcpy(address, bytes, 4);
  return true;
}

static uint32_t put_record(uint8_t *out, uint16_t type, uint16_t size) {
  store_be16(out, 0xc000 | DNS_HEADER);
  store_be16(out + 2, type);
  store_be16(out + 4, CLASS_IN);
  store_be32(out + 6, DNS_TTL_S);
  store_be16(out + 10, size);
  return 12;
}

// Starts at a random address, so that clients that take the first spread out.
static uint32_t put_addresses(const Name *name, uint64_t random, uint8_t *out, uint32_t room, uint32_t *count) {
  uint32_t at = 0, first = name->address_count ? (uint32_t)(mix64(random, 1) >> 32) % name->address_count : 0;
  bool back = mix64(random, 2) >> 63;
  for (*count = 0; *count < name->address_count && at + 16 <= room; (*count)++) {
    uint32_t step = back ? name->address_count - *count : *count;
    at += put_record(out + at, TYPE_A, 4);
    store32(out + at, name->addresses[(first + step) % name->address_count]);
    at += 4;
  }
  return at;
}

// False: text that is no name. The record is left out, and *cut set, when there is no room for it.
static bool put_pointer(const char *name, uint8_t *out, uint32_t room, uint32_t *size, bool *cut) {
  uint32_t length = (uint32_t)strlen(name), at = 12;
  if (!length || length > NAME_TEXT_MAX) return false;
  for (const char *label = name; label < name + length; label += strcspn(label, ".") + 1) {
    size_t one = strcspn(label, ".");
    if (!one || one > LABEL_MAX || (label[one] == '.' && !label[one + 1])) return false;
  }
  *cut = room < 12 + length + 2;
  if (*cut) return false;
  put_record(out, TYPE_PTR, (uint16_t)(length + 2));
  for (const char *label = name; label < name + length;) {
    uint32_t one = (uint32_t)strcspn(label, ".");
    out[at++] = (uint8_t)one;
    memcpy(out + at, label, one);
    at += one;
    label += one + 1;
  }
  out[at++] = 0;
  *size = at;
  return true;
}

DnsResult dns_answer(const Snapshot *tables, const DnsAsker *asker, const uint8_t *query, uint32_t size, uint8_t *out,
                     uint32_t out_max, uint32_t *out_size) {
  Question q;
  if (!read_question(query, size, &q)) return DNS_DROP;
  if ((query[2] & 0x78) != 0 || (q.class != CLASS_IN && q.class != CLASS_ANY) || !tables) return DNS_MISS;
  uint32_t address, limit = DNS_UDP_MIN, count = 0;
  const Pointer *pointer = NULL;
  const Name *name = NULL;
  if (reverse_address(q.name, &address)) {
    for (uint32_t i = 0; i < asker->vni_count && !pointer; i++) pointer = snapshot_pointer(tables, asker->vnis[i], address);
  } else {
    name = find_name(tables, asker, q.name);
  }
  if (!name && !pointer) return DNS_MISS;
  bool edns = has_edns(query, size, &q, &limit);
  if (asker->tcp) limit = DNS_MESSAGE_MAX;
  if (limit > out_max) limit = out_max;
  uint32_t at = start_reply(query, &q, DNS_NOERROR, out), records = 0;
  uint32_t room = limit - at - (edns ? 11 : 0);
  if (name && (q.type == TYPE_A || q.type == TYPE_ANY)) {
    at += put_addresses(name, asker->random, out + at, room, &records);
    if (records < name->address_count) {
      // Docker's clients ask again over TCP; a cut list would hide tasks from those that do not.
      out[2] |= 2;
    }
  } else if (pointer && (q.type == TYPE_PTR || q.type == TYPE_ANY)) {
    uint32_t written = 0;
    bool cut = false;
    records = put_pointer(pointer->name, out + at, room, &written, &cut);
    if (cut) out[2] |= 2;
    at += written;
  }
  count = records;
  store_be16(out + 6, (uint16_t)count);
  if (edns) {
    static const uint8_t option[11] = {0, 0, TYPE_OPT, 0x10, 0x00, 0, 0, 0, 0, 0, 0};
    memcpy(out + at, option, sizeof option);
    at += sizeof option;
    store_be16(out + 10, 1);
  }
  *out_size = at;
  return DNS_ANSWER;
}
