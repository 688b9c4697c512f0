// forward.c: carries out verdicts: writes to TAP devices, hands to the underlay, sends replies, counts.
#include "engine.h"
#include <errno.h>

void engine_count_drop(Engine *engine, DropReason reason) {
  if (reason != DROP_NONE) engine->counters.drops[reason]++;
}

static bool write_tap(Engine *engine, int fd, const VnetHeader *vnet, const uint8_t *frame, uint32_t head,
                      const struct iovec *more, uint32_t more_count) {
  struct iovec vectors[2 + COALESCE_MAX];
  vectors[0] = (struct iovec){(void *)vnet, sizeof *vnet};
  vectors[1] = (struct iovec){(void *)frame, head};
  for (uint32_t i = 0; i < more_count; i++) vectors[2 + i] = more[i];
  if (writev(fd, vectors, (int)(2 + more_count)) >= 0) return true;
  engine_count_drop(engine, DROP_INTERFACE_WRITE);
  return false;
}

static void send_reply(Engine *engine, const Origin *origin) {
  static const VnetHeader plain;
  Program *program = &engine->program;
  engine->counters.replies++;
  if (origin->kind == ORIGIN_VXLAN) {
    Packet p;
    // The frame was built by us, in a buffer of its own, with headroom missing: it is copied behind some.
    uint8_t *frame = engine->tap_buffer + HEADROOM;
    memcpy(frame, program->reply, program->reply_size);
    if (packet_parse(&p, frame, program->reply_size, program->reply_size, &plain) == DROP_NONE)
      underlay_send(engine, &p, origin->vni, origin->vtep);
    return;
  }
  int fd = origin->kind == ORIGIN_HOST ? engine->host_fd : origin->interface->fd;
  write_tap(engine, fd, &plain, program->reply, program->reply_size, NULL, 0);
}

void forward(Engine *engine, Packet *p, const Origin *origin, const struct iovec *more, uint32_t more_count) {
  Verdict verdict = program_run(&engine->program, p, origin);
  engine_count_drop(engine, verdict.reason);
  Counters *counters = &engine->counters;
  p->vnet.header_size = p->vnet.gso_type ? p->payload : 0;
  switch (verdict.kind) {
  case VERDICT_DROP:
    return;
  case VERDICT_REPLY:
    send_reply(engine, origin);
    return;
  case VERDICT_INTERFACE:
    if (!write_tap(engine, verdict.interface->fd, &p->vnet, p->frame, p->head, more, more_count)) return;
    counters->interface_tx++;
    counters->interface_tx_bytes += p->size;
    return;
  case VERDICT_HOST:
    if (engine->host_fd < 0 || !write_tap(engine, engine->host_fd, &p->vnet, p->frame, p->head, more, more_count)) return;
    counters->host_tx++;
    counters->host_tx_bytes += p->size;
    return;
  case VERDICT_VXLAN:
    underlay_send(engine, p, verdict.vni, verdict.vtep);
    return;
  }
}
