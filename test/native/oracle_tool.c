// oracle_tool: lets a test compare the packet program with core/vxlan. Lines on stdin, a line on stdout for each:
// "parse HEX", "nat SOURCE DESTINATION SPORT DPORT HEX" (hex words), "vxlan VNI", "unvxlan HEX", "lb COUNT (WEIGHT DRAINING)... PICKS".
#include "check.h"
#include "packet/vxlan.h"

static uint8_t bytes[FRAME_MAX];
static char line[2 * FRAME_MAX + 1000];

static uint32_t read_hex(const char *text) {
  uint32_t size = 0;
  unsigned value;
  for (; size < sizeof bytes && sscanf(text + 2 * size, "%2x", &value) == 1; size++) bytes[size] = (uint8_t)value;
  return size;
}

static void print_hex(const uint8_t *data, uint32_t size) {
  for (uint32_t i = 0; i < size; i++) printf("%02x", data[i]);
  printf("\n");
}

static uint32_t parse(Packet *p, const char *hex, bool print) {
  static const VnetHeader vnet;
  uint32_t size = read_hex(hex);
  DropReason reason = packet_parse(p, bytes, size, size, &vnet);
  if (!print) return size;
  if (reason != DROP_NONE) printf("%s\n", drop_reason_name(reason));
  else printf("%u %u %u %u %u %u %d %d %u %u %u %u\n", p->size, p->ethertype, p->l3, p->l4, p->payload, p->protocol, p->fragment,
    p->fragment_first, ntohl(p->source), ntohl(p->destination), ntohs(p->source_port), ntohs(p->destination_port));
  return size;
}

static void balance(char *text) {
  Backend backends[16] = {0};
  BackendSet set = {.backends = backends, .count = (uint32_t)strtoul(text, &text, 10)};
  CHECK(set.count <= 16);
  for (uint32_t i = 0; i < set.count; i++) {
    backends[i].weight = (uint32_t)strtoul(text, &text, 10);
    backends[i].draining = strtoul(text, &text, 10);
  }
  lb_prepare(&set);
  for (unsigned long picks = strtoul(text, NULL, 10); picks; picks--) {
    const Backend *b = lb_pick(&set);
    printf("%d ", b ? (int)(b - backends) : -1);
  }
  printf("\n");
}

int main(void) {
  while (fgets(line, sizeof line, stdin)) {
    Packet p;
    unsigned a, b, c, d, vni;
    int at = 0;
    if (!strncmp(line, "parse ", 6)) parse(&p, line + 6, true);
    else if (sscanf(line, "nat %x %x %x %x %n", &a, &b, &c, &d, &at) == 4) {
      uint32_t whole = parse(&p, line + at, false);
      FlowKey to = {.source = htonl(a), .destination = htonl(b), .source_port = htons((uint16_t)c), .destination_port = htons((uint16_t)d)};
      nat_rewrite(&p, &to);
      print_hex(bytes, whole);
    } else if (sscanf(line, "vxlan %u", &vni) == 1) {
      vxlan_encode(bytes, vni);
      print_hex(bytes, VXLAN_SIZE);
    } else if (!strncmp(line, "unvxlan ", 8)) {
      uint32_t size = read_hex(line + 8);
      if (vxlan_decode(bytes, size, &vni)) printf("%u\n", vni);
      else printf("none\n");
    } else if (!strncmp(line, "lb ", 3)) balance(line + 3);
    else return 1;
  }
  return 0;
}
