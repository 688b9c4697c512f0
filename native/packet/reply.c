// reply.c: see reply.h. Built from the packet as it arrived, before any rewriting.
#include "reply.h"
#include "csum.h"

static uint8_t *start_ip(uint8_t *out, const Packet *p, const uint8_t mac[6], uint8_t protocol, uint32_t source,
                         uint32_t destination, uint32_t total) {
  memcpy(out, p->frame + 6, 6);
  memcpy(out + 6, mac, 6);
  store_be16(out + 12, ETHERTYPE_IPV4);
  uint8_t *ip = out + ETH_SIZE;
  memset(ip, 0, IP_SIZE);
  ip[0] = 0x45;
  store_be16(ip + 2, (uint16_t)total);
  ip[8] = 64;
  ip[9] = protocol;
  store32(ip + 12, source);
  store32(ip + 16, destination);
  store16(ip + 10, (uint16_t)~csum_fold(csum_add(ip, IP_SIZE, 0)));
  return ip + IP_SIZE;
}

uint32_t reply_arp(uint8_t *out, const Packet *p, const uint8_t mac[6]) {
  const uint8_t *ask = p->frame + ETH_SIZE;
  memcpy(out, ask + 8, 6);
  memcpy(out + 6, mac, 6);
  store_be16(out + 12, ETHERTYPE_ARP);
  uint8_t *arp = out + ETH_SIZE;
  memcpy(arp, ask, 6);
  store_be16(arp + 6, 2);
  memcpy(arp + 8, mac, 6);
  memcpy(arp + 14, ask + 24, 4);
  memcpy(arp + 18, ask + 8, 10);
  return ETH_SIZE + ARP_SIZE;
}

uint32_t reply_echo(uint8_t *out, const Packet *p, const uint8_t mac[6]) {
  if (p->head < p->size) return 0;
  uint32_t icmp_size = p->size - p->l4;
  uint8_t *icmp = start_ip(out, p, mac, PROTOCOL_ICMP, p->destination, p->source, IP_SIZE + icmp_size);
  memcpy(icmp, p->frame + p->l4, icmp_size);
  icmp[0] = ICMP_ECHO_REPLY;
  store16(icmp + 2, csum_replace16(load16(icmp + 2), htons(ICMP_ECHO << 8), 0));
  return ETH_SIZE + IP_SIZE + icmp_size;
}

uint32_t reply_icmp_error(uint8_t *out, const Packet *p, const uint8_t mac[6], uint32_t source, uint8_t type, uint8_t code, uint16_t mtu) {
  // RFC 1122: never about an ICMP error, a fragment after the first, or a group address.
  if (packet_is_icmp_error(p) || (p->fragment && !p->fragment_first)) return 0;
  uint32_t quote = p->size - p->l3;
  if (quote > 548) quote = 548;
  if (quote > p->head - p->l3) quote = p->head - p->l3;
  uint8_t *icmp = start_ip(out, p, mac, PROTOCOL_ICMP, source, p->source, IP_SIZE + ICMP_SIZE + quote);
  memset(icmp, 0, ICMP_SIZE);
  icmp[0] = type;
  icmp[1] = code;
  store_be16(icmp + 6, mtu);
  memcpy(icmp + ICMP_SIZE, p->frame + p->l3, quote);
  store16(icmp + 2, (uint16_t)~csum_fold(csum_add(icmp, ICMP_SIZE + quote, 0)));
  return ETH_SIZE + IP_SIZE + ICMP_SIZE + quote;
}

uint32_t reply_tcp_reset(uint8_t *out, const Packet *p, const uint8_t mac[6]) {
  if (p->protocol != PROTOCOL_TCP || p->fragment || (p->tcp_flags & TCP_RST)) return 0;
  const uint8_t *in = p->frame + p->l4;
  uint8_t *tcp = start_ip(out, p, mac, PROTOCOL_TCP, p->destination, p->source, IP_SIZE + TCP_SIZE);
  memset(tcp, 0, TCP_SIZE);
  store16(tcp, p->destination_port);
  store16(tcp + 2, p->source_port);
  tcp[12] = 5 << 4;
  if (p->tcp_flags & TCP_ACK) {
    store32(tcp + 4, load32(in + 8));
    tcp[13] = TCP_RST;
  } else {
    uint32_t length = p->size - p->payload + !!(p->tcp_flags & TCP_SYN) + !!(p->tcp_flags & TCP_FIN);
    store_be32(tcp + 8, load_be32(in + 4) + length);
    tcp[13] = TCP_RST | TCP_ACK;
  }
  uint64_t sum = csum_pseudo(p->destination, p->source, PROTOCOL_TCP, TCP_SIZE);
  store16(tcp + 16, (uint16_t)~csum_fold(csum_add(tcp, TCP_SIZE, sum)));
  return ETH_SIZE + IP_SIZE + TCP_SIZE;
}
