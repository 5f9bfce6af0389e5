/*
 * A module that exports for its caller. With -DPLUGIN it is one that interposes
 * mechanisms in MIT's library, as gssproxy's: its exports are part of another export.
 */
#include <gssapi/gssapi.h>

#ifdef PLUGIN
void *gss_mech_interposer(void *);
void *gss_mech_interposer(void *mechs) { (void)mechs; return 0; }
#endif

OM_uint32 through(OM_uint32 *, gss_ctx_id_t *, gss_buffer_t);
OM_uint32 through(OM_uint32 *minor, gss_ctx_id_t *context, gss_buffer_t token)
{
	OM_uint32 major = gss_export_sec_context(minor, context, token);
	return major; /* no tail call: the caller is this module */
}
