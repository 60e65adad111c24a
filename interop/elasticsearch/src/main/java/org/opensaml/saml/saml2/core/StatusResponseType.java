package org.opensaml.saml.saml2.core;

/**
 * Stands for a class of single sign-on, which is not in the central repository.
 *
 * <p>Elasticsearch's security looks at the signatures of all its actions when it starts, also of
 * those that nobody calls here.
 */
public interface StatusResponseType {}
